"""The matrix in a browser: readable without the script, filtered and linked with it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

    Entry = dict[str, Any]

COMPARE = "compare/"
ROW = ".matrix-table tbody tr[id]"
BOX = "element => JSON.stringify(element.getBoundingClientRect())"


@pytest.fixture(scope="session")
def entries(site: Path) -> list[Entry]:
    """The entries as the site publishes them for machines."""
    data = json.loads((site / "data/matrix.json").read_text("utf-8"))
    found: list[Entry] = data["entries"]
    return found


@pytest.fixture
def phone(browser: Browser, address: str) -> Iterator[Page]:
    """A tab on a small phone, in dark colours."""
    context = browser.new_context(
        viewport={"width": 360, "height": 740},
        base_url=address,
        color_scheme="dark",
        has_touch=True,
    )
    yield context.new_page()
    context.close()


def shown(page: Page) -> list[str]:
    """Return the ids of the rows that can be seen."""
    rows: list[str] = page.locator(f"{ROW}:visible").evaluate_all(
        "rows => rows.map(row => row.id)"
    )
    return rows


def ids(entries: list[Entry], wanted: Callable[[Entry], bool]) -> list[str]:
    """Return the ids of the entries that are wanted."""
    return [one["id"] for one in entries if wanted(one)]


def status(page: Page) -> Locator:
    """Return what a screen reader is told of the filter."""
    return page.locator(".matrix-filter [role=status]")


def choice(page: Page, label: str) -> Locator:
    """Return the list of choices with that label."""
    return page.get_by_role("combobox", name=label)


def words(page: Page) -> Locator:
    """Return the field for words."""
    return page.get_by_role("searchbox", name="Words")


def top(one: Locator) -> float:
    """Return how far below the window's upper edge something stands."""
    return float(json.loads(one.evaluate(BOX))["top"])


def test_without_the_script_the_whole_matrix_can_be_read(
    browser: Browser, address: str, entries: list[Entry]
) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{COMPARE}?category=Caching")
    assert page.locator(f"{ROW}:visible").count() == len(entries) == 70
    expect(page.locator(".matrix-filter")).to_be_hidden()
    page.locator("#caching-redis summary").first.click()
    expect(page.locator("#caching-redis td a").first).to_be_visible()
    context.close()


def test_a_category_leaves_its_own_rows_and_says_how_many(
    page: Page, entries: list[Entry]
) -> None:
    page.goto(COMPARE)
    assert shown(page) == ids(entries, lambda _: True)
    choice(page, "Category").select_option("Database")
    assert shown(page) == ids(entries, lambda one: one["category"] == "Database")
    assert status(page).inner_text() == "6 of 70 entries"
    groups = page.locator(".matrix-group:visible")
    assert groups.all_inner_texts() == ["Database"]


@pytest.mark.parametrize(
    ("label", "value", "wanted"),
    [
        ("FastAPI template", "full", lambda one: one["template"]["state"] == "full"),
        ("Accent-Voice2", "unknown", lambda one: one["accent"]["state"] == "unknown"),
        ("This catalogue", "planned", lambda one: one["ours"]["state"] == "planned"),
        ("Show", "better", lambda one: one["ours"]["better"]),
        (
            "Show",
            "contradicted",
            lambda one: (
                one["template"]["contradiction"] or one["accent"]["contradiction"]
            ),
        ),
    ],
)
def test_each_filter_leaves_what_the_data_says(
    page: Page,
    entries: list[Entry],
    label: str,
    value: str,
    wanted: Callable[[Entry], bool],
) -> None:
    page.goto(COMPARE)
    choice(page, label).select_option(value)
    assert shown(page) == ids(entries, wanted)
    assert 0 < len(shown(page)) < 70


def test_filters_and_words_narrow_together(page: Page, entries: list[Entry]) -> None:
    page.goto(COMPARE)
    choice(page, "Category").select_option("Messaging")
    words(page).fill("QUEUE dead")
    assert shown(page) == ["messaging-dead-letter"]
    choice(page, "Accent-Voice2").select_option("full")
    assert shown(page) == []
    assert status(page).inner_text().startswith("0 of 70 entries; clear the filter")
    page.get_by_role("button", name="Clear the filter").click()
    assert shown(page) == ids(entries, lambda _: True)
    assert "?" not in page.url


def test_a_filtered_view_can_be_linked(page: Page) -> None:
    page.goto(COMPARE)
    choice(page, "FastAPI template").select_option("full")
    words(page).fill("pool size")
    found = shown(page)
    assert found == ["database-pooling"]
    assert "template=full" in page.url
    page.goto("about:blank")
    page.goto(f"{COMPARE}?template=full&words=pool+size")
    assert shown(page) == found
    assert words(page).input_value() == "pool size"
    page.reload()
    assert shown(page) == found


def test_the_summary_links_to_where_others_are_better(
    page: Page, entries: list[Entry]
) -> None:
    page.goto(COMPARE)
    better = ids(entries, lambda one: one["ours"]["better"])
    sentence = page.get_by_text(f"In {len(better)} of 70 entries")
    sentence.get_by_role("link").click()
    page.wait_for_url("**/?show=better#matrix")
    assert shown(page) == better


def test_a_filter_that_no_option_has_is_left_out(page: Page) -> None:
    page.goto(f"{COMPARE}?template=perfect&category=%3Cimg%20src=x%3E&other=1")
    assert len(shown(page)) == 70
    page.goto(f"{COMPARE}?words=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    assert shown(page) == []
    assert page.locator("main img").count() == 0


def test_a_link_to_an_entry_wins_over_the_filter_that_hides_it(page: Page) -> None:
    page.goto(f"{COMPARE}?category=Caching#auth-acl")
    expect(page.locator("#auth-acl")).to_be_in_viewport()
    page.goto(f"{COMPARE}?category=Caching")
    assert len(shown(page)) == 3
    page.evaluate("location.hash = 'database-alembic'")
    expect(page.locator("#database-alembic")).to_be_in_viewport()
    page.goto(f"{COMPARE}?category=Caching#caching-redis")
    assert len(shown(page)) == 3


def test_an_entry_s_own_link_leads_to_it(page: Page) -> None:
    page.goto(COMPARE)
    page.get_by_role("link", name="Link to Dead-letter queues").click()
    assert page.url.endswith("#messaging-dead-letter")
    head = page.locator(".matrix-table thead th").first
    name = page.locator("#messaging-dead-letter .matrix-name")
    assert top(name) > top(head) + 10


def test_the_filter_works_by_keyboard_alone(page: Page) -> None:
    page.goto(COMPARE)
    choice(page, "Category").focus()
    page.keyboard.type("Depl")
    assert status(page).inner_text() == "3 of 70 entries"
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.name || document.activeElement.type || "
                "document.activeElement.getAttribute('aria-label')"
            )
        )
    assert reached[:6] == ["template", "accent", "ours", "show", "words", "reset"]
    assert reached[6:] == ["The matrix", "Link to Docker multi-stage"]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#deployment-docker td a").first).to_be_visible()


def test_the_header_row_and_the_row_s_name_stay_in_view(page: Page) -> None:
    page.goto(COMPARE)
    row = page.locator("#observability-health")
    row.locator("summary").first.click()
    head = page.locator(".matrix-table thead th").first
    name = row.locator(".matrix-name")
    bottom = float(json.loads(row.evaluate(BOX))["bottom"])
    page.evaluate("y => scrollBy(0, y)", bottom - 200)
    header = json.loads(page.locator(".md-header").evaluate(BOX))
    assert top(row) < 0
    assert abs(top(head) - header["bottom"]) <= 1
    assert top(head) < top(name) < 200


@pytest.mark.parametrize("width", [360, 390, 720, 960, 1280])
def test_the_matrix_never_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(COMPARE)
    page.evaluate(
        "document.querySelectorAll('details').forEach(one => one.open = true)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    matrix = page.locator(".matrix")
    assert matrix.evaluate("one => one.scrollWidth - one.clientWidth") <= 0


def test_on_a_phone_a_row_is_a_card_that_says_whose_each_part_is(phone: Page) -> None:
    phone.goto(f"{COMPARE}#caching-redis")
    cells = phone.locator("#caching-redis > *")
    boxes = [json.loads(cell.evaluate(BOX)) for cell in cells.all()]
    lefts, tops = [{box[side] for box in boxes} for side in ("left", "top")]
    assert (len(lefts), len(tops)) == (1, 4)
    labels = phone.locator("#caching-redis td").evaluate_all(
        "cells => cells.map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert labels == ['"FastAPI template"', '"Accent-Voice2"', '"This catalogue"']
    phone.evaluate("scrollBy(0, 300)")
    assert top(cells.nth(0)) > 0


def test_the_table_means_a_table_on_a_phone_too(phone: Page) -> None:
    phone.goto(COMPARE)
    table = phone.get_by_role("table", name=re.compile("The 70 entries"))
    assert table.get_by_role("columnheader").count() == 4
    assert table.get_by_role("rowheader", name="Redis integration").count() == 1
    assert table.locator("#caching-redis").get_by_role("cell").count() == 3
