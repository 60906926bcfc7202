"""Every page, in a browser: it fits, it is quiet, and everybody can use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.site import built
from tests.site.served import serve

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from playwright.sync_api import Browser, Page, Request

HEAD = '<!doctype html><html lang="en"><head><title>A page</title></head><body><main>'
WIDTHS = (360, 390)
# One page of each kind; the patterns are one kind, and so are their categories' pages.
KINDS = {
    "home": "",
    "new here": "start/",
    "how to read a page": "start/how-to-read-a-page/",
    "symptoms": "start/symptoms/",
    "notebook": "start/first-notebook/",
    "patterns": "patterns/",
    "category": "patterns/caching/",
    "pattern": "patterns/database/repository/",
    "another pattern": "patterns/caching/cached/",
    "comparison": "compare/",
    "API": "reference/database/",
    "data": "reference/data/",
    "proof": "reference/verification/",
    "wrong address": "404.html",
}


def noise(page: Page, address: str, urls: list[str]) -> list[str]:
    """Visit pages; return requests to other hosts, failures, and console errors."""
    found: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            found.append(f"asked {request.url}")

    def failed(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by leaving the page
            found.append(f"failed {request.url}")

    page.on("request", asked)
    page.on("requestfailed", failed)
    page.on(
        "response",
        lambda response: (
            found.append(f"{response.status} {response.url}")
            if response.status >= 400
            else None
        ),
    )
    page.on("pageerror", lambda error: found.append(f"raised {error}"))
    page.on(
        "console",
        lambda message: (
            found.append(f"console: {message.text}")
            if message.type in {"error", "warning"}
            else None
        ),
    )
    for url in urls:
        page.goto(address + url, wait_until="load")
    page.wait_for_load_state("networkidle")
    return found


def overflow(page: Page, address: str, urls: list[str], width: int) -> list[str]:
    """Visit pages at a phone's width; return those that scroll sideways, and why."""
    found = []
    page.set_viewport_size({"width": width, "height": 800})
    for url in urls:
        page.goto(address + url, wait_until="load")
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            found.append(f"{url}: {wide} wide on a screen of {width}")
    return found


def barriers(page: Page, url: str, node_modules: Path) -> list[str]:
    """Visit a page; return what axe finds wrong with it."""
    page.goto(url, wait_until="load")
    page.add_script_tag(path=node_modules / "axe-core/axe.min.js")
    return [
        f"{url}: {violation['id']}: {node['html'][:120]}"
        for violation in page.evaluate("async () => (await axe.run()).violations")
        for node in violation["nodes"]
    ]


def test_no_page_asks_another_host_or_complains(
    page: Page, address: str, site: Path
) -> None:
    assert noise(page, address, [one.url for one in built.pages(site)]) == []


def test_a_noisy_page_is_noticed(page: Page, tmp_path: Path) -> None:
    noisy = '<img src="http://127.0.0.1:9/a.png"><script>console.error("oh")</script>'
    (tmp_path / "index.html").write_text(f"{HEAD}{noisy}", "utf-8")
    with serve(tmp_path) as address:
        found = noise(page, address, [""])
    assert "asked http://127.0.0.1:9/a.png" in found
    assert "console: oh" in found


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways_on_a_phone(
    width: int, page: Page, address: str, site: Path
) -> None:
    assert overflow(page, address, [one.url for one in built.pages(site)], width) == []


def test_a_page_that_is_too_wide_is_noticed(page: Page, tmp_path: Path) -> None:
    wide = '<div style="width: 500px">wide</div>'
    (tmp_path / "index.html").write_text(f"{HEAD}{wide}", "utf-8")
    with serve(tmp_path) as address:
        assert overflow(page, address, [""], 360) == [": 508 wide on a screen of 360"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_no_barrier(
    kind: str,
    scheme: Literal["light", "dark"],
    address: str,
    browser: Browser,
    node_modules: Path,
) -> None:
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    try:
        page = context.new_page()
        assert barriers(page, address + KINDS[kind], node_modules) == []
    finally:
        context.close()


def test_a_barrier_is_noticed(page: Page, tmp_path: Path, node_modules: Path) -> None:
    (tmp_path / "index.html").write_text(f"{HEAD}<h1>A</h1><img src='a.png'>", "utf-8")
    with serve(tmp_path) as address:
        found = barriers(page, address, node_modules)
    assert [line.split(": ")[1] for line in found] == ["image-alt"]
