"""The site by keyboard alone, and in the colours that the reader chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from catalogue.plain_tokens import COLOURLESS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATTERN = "patterns/database/repository/"
SHOWN = """() => {
  const one = document.activeElement;
  if (one === document.body) return null;
  const outlined = (e) => e && getComputedStyle(e).outlineStyle !== "none";
  const label = one.labels?.[0];
  const tabs = one.parentElement?.querySelector(".tabbed-labels");
  const ring = [one, label, tabs, one.closest("label, form")].some(outlined);
  const box = one.getBoundingClientRect();
  const name = one.ariaLabel || one.innerText || one.id || one.className;
  return {name: `${one.tagName} ${name}`.slice(0, 60), ring, width: box.width};
}"""

HAS_LANDED = """name => {
  const top = document.getElementById(name).getBoundingClientRect().top;
  const left = document.documentElement.scrollHeight - scrollY - innerHeight;
  return top >= 0 && top < (left > 1 ? 200 : innerHeight);
}"""

COLOURS = """kinds => {
  const code = document.querySelector(".highlight code");
  const tokens = kinds.map((kind) => {
    const token = code.appendChild(document.createElement("span"));
    token.className = kind;
    return token;
  });
  return [...tokens, code].map((one) => getComputedStyle(one).color);
}"""


def test_the_theme_follows_the_system_until_the_reader_chooses(
    browser: Browser, address: str
) -> None:
    context = browser.new_context(base_url=address, color_scheme="dark")
    try:
        page = context.new_page()
        page.goto(PATTERN)
        wait_for(page, "slate")
        dark = ground(page)
        page.emulate_media(color_scheme="light")
        wait_for(page, "default")
        assert ground(page) != dark
        for _ in range(2):  # from the system's colours to light ones, then to dark ones
            page.locator("[data-md-component=palette] label:not([hidden])").click()
        wait_for(page, "slate")
        assert ground(page) == dark
        page.goto("compare/")
        wait_for(page, "slate")
    finally:
        context.close()


def wait_for(page: Page, colours: str) -> None:
    """Wait until the colours of that name are in force."""
    page.locator(f"body[data-md-color-scheme={colours}]").wait_for()


def ground(page: Page) -> str:
    """Return the colour of the page's ground."""
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_a_diagram_takes_the_theme_s_colours(browser: Browser, address: str) -> None:
    seen = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(base_url=address, color_scheme=scheme)
        page = context.new_page()
        page.goto(PATTERN)
        letters = page.locator(".sp-diagram text").first
        seen.add(letters.evaluate("text => getComputedStyle(text).fill"))
        context.close()
    assert len(seen) == 2


def test_tokens_whose_tags_are_taken_have_no_colour(
    browser: Browser, address: str
) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(base_url=address, color_scheme=scheme)
        page = context.new_page()
        page.goto(PATTERN)
        kinds = [*COLOURLESS, "k"]
        *colourless, keyword, plain = page.evaluate(COLOURS, kinds)
        assert {*colourless} == {plain}
        assert keyword != plain
        context.close()


def test_a_search_is_made_and_followed_without_a_mouse(page: Page) -> None:
    page.goto("")
    page.keyboard.type("Repository", delay=20)
    page.locator(".md-search-result__item").first.wait_for()
    page.keyboard.press("ArrowDown")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert "repository" in page.url


def test_the_first_key_leads_past_the_navigation(page: Page) -> None:
    page.goto(PATTERN)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.md-skip')")
    page.keyboard.press("Enter")
    assert "#when-to-use-it" in page.url


@pytest.mark.parametrize("width", [390, 1440])
def test_an_address_within_a_page_leads_to_its_heading(
    width: int, browser: Browser, address: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(address + PATTERN)
    names = page.eval_on_selector_all(".md-typeset h2[id]", "all => all.map(h => h.id)")
    assert "evidence" in names
    for name in names:
        page.goto("about:blank")
        page.goto(f"{address}{PATTERN}#{name}")
        page.wait_for_function(HAS_LANDED, arg=name)
    for name in reversed(names):
        page.evaluate("name => location.hash = name", name)
        page.wait_for_function(HAS_LANDED, arg=name)
    page.close()


def test_the_tabs_of_the_code_and_its_copy_button_work_by_key(page: Page) -> None:
    page.goto(PATTERN)
    page.locator(".tabbed-set > input").first.focus()
    page.keyboard.press("ArrowRight")
    usage = page.locator(".tabbed-block").nth(1)
    assert usage.is_visible()
    usage.get_by_role("button", name="Copy").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Copied to clipboard").wait_for()
    text = str(page.evaluate("navigator.clipboard.readText()"))
    assert text == usage.locator("code").text_content()


def test_the_theme_is_switched_by_key(page: Page) -> None:
    page.goto(PATTERN)
    page.locator("[data-md-component=palette] input").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    wait_for(page, "slate")
    page.evaluate("localStorage.clear()")


@pytest.mark.parametrize("url", ["", PATTERN, "compare/", "start/first-notebook/"])
def test_each_key_stop_is_seen(url: str, page: Page) -> None:
    page.goto(url)
    page.evaluate("document.activeElement.blur()")
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(SHOWN)
        if stop is None:
            break
        stops.append(stop)
    assert len(stops) > 5
    assert [stop["name"] for stop in stops if not stop["ring"]] == []
