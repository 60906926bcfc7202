"""A pattern is found by its name, by what goes wrong without it, and by its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from catalogue.patterns import Pattern, discover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, Page

PATTERNS = discover()
LOOKED_AT = 5  # pages that a reader looks at


def found(page: Page, query: str) -> list[str]:
    """Search; return the addresses of the first pages that it finds."""
    field = page.locator("[data-md-component=search-query]")
    field.fill("")
    field.press("End")  # the theme searches when a key is let go
    page.get_by_text("Type to start searching").wait_for()
    field.fill(query)
    field.press("End")
    page.locator(".md-search-result__meta", has_not_text="Type to start").wait_for()
    results = page.locator(".md-search-result__item > a:first-child")
    links = results.evaluate_all("links => links.map(link => link.pathname)")
    return [str(link).removeprefix("/") for link in links[:LOOKED_AT]]


@pytest.fixture(scope="module")
def search(desktop: BrowserContext) -> Iterator[Page]:
    """A page with the search open and its index loaded."""
    page = desktop.new_page()
    page.goto("start/")
    page.keyboard.press("/")
    page.get_by_text("Type to start searching").wait_for()
    yield page
    page.close()


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.id)
def test_a_pattern_is_found_by_its_name(pattern: Pattern, search: Page) -> None:
    assert pattern.url in found(search, pattern.front_matter.title)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.id)
def test_a_pattern_is_found_by_each_of_its_symptoms(
    pattern: Pattern, search: Page
) -> None:
    for symptom in pattern.front_matter.symptoms:
        assert pattern.url in found(search, symptom), symptom


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.id)
def test_a_pattern_is_found_by_its_classes(pattern: Pattern, search: Page) -> None:
    for name in pattern.names:
        if name[0].isupper():  # a function may be called `where`
            assert pattern.url in found(search, name), name


def test_what_is_nowhere_is_not_found(search: Page) -> None:
    assert found(search, "zzyzx quux") == []


def test_the_field_on_the_landing_page_has_the_focus_and_searches(page: Page) -> None:
    page.goto("")
    assert page.evaluate("document.activeElement.matches('.sp-search input')")
    page.keyboard.type(PATTERNS[0].front_matter.title)
    page.locator(".md-search-result__item").first.wait_for()
    field = page.locator("[data-md-component=search-query]")
    assert field.input_value() == PATTERNS[0].front_matter.title


@pytest.mark.parametrize(
    ("door", "url"),
    [
        ("I have a symptom", "start/symptoms/"),
        ("I know the name", "patterns/"),
        ("I am new here", "start/"),
        ("How does it compare", "compare/"),
    ],
)
def test_each_door_of_the_landing_page_opens(
    door: str, url: str, page: Page, address: str
) -> None:
    page.goto("")
    page.locator(".sp-doors").get_by_role("link", name=door).click()
    assert page.url == address + url
