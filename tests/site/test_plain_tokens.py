"""Tokens without a colour have no tags, and the text of the code is what it was."""

from __future__ import annotations

from html import unescape
from re import sub
from typing import TYPE_CHECKING

from markdown import markdown

from catalogue.patterns import ROOT
from catalogue.plain_tokens import main, without_tags

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = (ROOT / "snippets/database/repository.py").read_text("utf-8")
PAGE = markdown(f"```python\n{SOURCE}```", extensions=["pymdownx.superfences"])


def text(html: str) -> str:
    """What a reader sees of the HTML."""
    return unescape(sub("<[^>]*>", "", html)).strip("\n")


def test_a_page_loses_half_of_its_tags_and_nothing_of_its_text() -> None:
    plain = without_tags(PAGE)
    assert text(plain) == text(PAGE) == SOURCE.strip("\n")
    assert plain.count("<span") < PAGE.count("<span") / 2
    for kind in ("k", "nf", "nc", "s2", "sd"):
        tag = f'<span class="{kind}">'
        assert 0 < plain.count(tag) == PAGE.count(tag)


def test_what_looks_like_a_token_stays_if_it_is_none() -> None:
    for html in (
        '<span class="n"><a href="x">Name</a></span>',
        '<span class="sp-state">n</span>',
        '<code>&lt;span class="n"&gt;x&lt;/span&gt;</code>',
    ):
        assert without_tags(html) == html


def test_all_pages_of_a_site_are_rewritten(tmp_path: Path) -> None:
    page = tmp_path / "a/index.html"
    page.parent.mkdir()
    page.write_text('<span class="n">é</span>', "utf-8")
    main(tmp_path)
    assert page.read_text("utf-8") == "é"


def test_the_built_site_has_no_such_tags(site: Path) -> None:
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    assert [path for path, html in pages.items() if without_tags(html) != html] == []
    assert any('<span class="k">' in html for html in pages.values())
