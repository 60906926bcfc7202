"""The built HTML shows what the sources say, by itself, to everybody."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from catalogue import record
from catalogue.patterns import ROOT, discover
from tests.site import built

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECKS: dict[str, Callable[[Path], list[str]]] = {
    "pages": lambda site: built.page_problems(ROOT, site),
    "code": lambda site: built.code_problems(ROOT, site),
    "hosts": built.foreign_problems,
    "links": built.link_problems,
    "texts": built.text_problems,
    "pictures": built.picture_problems,
    "sitemap": built.sitemap_problems,
    "search": lambda site: built.search_problems(ROOT, site),
}
PATTERN = discover(ROOT)[0].url + "index.html"
END = "</article>"
STYLES = "assets/catalogue.css"
INDEX = "search/search_index.json"


@pytest.mark.parametrize("name", CHECKS)
def test_the_built_site_is_free_of_problems_with(name: str, site: Path) -> None:
    assert CHECKS[name](site) == []


def test_every_pattern_shows_all_its_code(site: Path) -> None:
    for pattern in discover(ROOT):
        path = f"{pattern.url}index.html"
        page = built.Page(path, (site / path).read_text("utf-8"))
        shown = {block.get_text() for block in built.blocks(page)}
        roles = [pattern.role("usage"), pattern.role("naive")]
        for name in [pattern.snippet, *roles, pattern.test]:
            assert (ROOT / name).read_text("utf-8") in shown, name


def test_every_card_names_what_the_module_and_its_usage_need(site: Path) -> None:
    for pattern in discover(ROOT):
        path = f"{pattern.url}index.html"
        page = built.Page(path, (site / path).read_text("utf-8"))
        named = [link.get_text() for link in page.soup.select(".sp-card a code")]
        assert named == [*pattern.copied, *pattern.usage_needs]


def test_each_card_counts_the_tests_that_passed_on_each_backend(site: Path) -> None:
    known = record.load(ROOT)
    for pattern in discover(ROOT):
        page = built.Page("", (site / pattern.url / "index.html").read_text("utf-8"))
        card = " ".join(page.soup.select("dl.sp-card")[0].get_text(" ").split())
        verification = known.valid(pattern)
        assert verification is not None, pattern.id
        for name, run in verification.runs.items():
            where = f"on {record.NAMES[name]}" if name else "without a backend"
            assert re.search(rf"\b{len(run.passed)} tests? {where}", card), pattern.id
        assert (
            re.search(r"\b1 (test|symptom)s|\b(?!1 )\d+ (test|symptom)\b", card) is None
        )


def test_no_script_keeps_a_page_from_being_shown(site: Path) -> None:
    for page in built.pages(site):
        scripts = page.soup.select("script[src]")
        assert scripts
        assert [one for one in scripts if not one.has_attr("defer")] == [], page.url


@pytest.fixture
def copy(site: Path, tmp_path: Path) -> Path:
    """A part of the site, to be spoilt."""
    for path in (PATTERN, "index.html", "sitemap.xml", STYLES, INDEX):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(site / path, tmp_path / path)
    return tmp_path


@pytest.mark.parametrize(
    ("check", "old", "new", "problem"),
    [
        ("code", '<span class="kn">import</span>', "Import", "is not snippets/"),
        ("code", "<pre", "<div", "blocks of code, not"),
        ("hosts", END, '<img src="//h.example/a">', "<img> asks //h.example/a"),
        ("hosts", END, '<use href="https://h.example/a#b">', "<use> asks https://h."),
        ("hosts", END, '<form action="http://h.example">', "<form> asks http://h."),
        (
            "hosts",
            "</body>",
            '<script src="https://h.example">',
            "<script> asks https:",
        ),
        (
            "hosts",
            "</head>",
            '<link href="https://h.example">',
            "<link> asks https://h",
        ),
        (
            "hosts",
            END,
            "<p style='color:url(https://h.example)'>",
            "<p> asks https://h",
        ),
        (
            "hosts",
            "</head>",
            "<style>@import '//h.example'</style>",
            "<style> asks //h",
        ),
        (
            "hosts",
            '<span class="kn">import</span>',
            '<span style="background: url(https://h.example)">import</span>',
            "<span> asks https://h",
        ),
        ("links", END, '<a href="../x/">x</a>', "the link ../x/ leads nowhere"),
        ("links", 'id="evidence"', 'id="x"', "no anchor for the link #evidence"),
        ("texts", '<meta name="description"', '<meta name="x"', "no description"),
        ("texts", END, "<h1>Again</h1>", "2 first headings, not 1"),
        ("pictures", END, '<img src="a.png" alt="">', "a picture without alt: a.png"),
        ("pictures", END, '<svg role="img"></svg>', "a drawing without a text"),
    ],
)
def test_a_spoilt_page_is_named(
    check: str, old: str, new: str, problem: str, copy: Path
) -> None:
    page = copy / PATTERN
    html = page.read_text("utf-8")
    assert old in html
    assert not named(check, problem, copy)
    page.write_text(html.replace(old, new, 1), "utf-8")
    assert named(check, problem, copy)


def named(check: str, problem: str, site: Path) -> bool:
    """Whether the check finds this problem in the pattern's page."""
    found = CHECKS[check](site)
    return any(PATTERN in line and problem in line for line in found)


def test_a_lost_page_is_named(copy: Path) -> None:
    (copy / PATTERN).unlink()
    assert f"{PATTERN}: the page is missing" in CHECKS["pages"](copy)
    assert f"{PATTERN} is not in the built site" in "".join(CHECKS["code"](copy))


def test_a_page_that_the_sitemap_lacks_is_named(copy: Path) -> None:
    map_of_one = "<loc>http://h.example/</loc>"
    (copy / "sitemap.xml").write_text(map_of_one, "utf-8")
    url = PATTERN.removesuffix("index.html")
    assert CHECKS["sitemap"](copy) == [f"sitemap.xml: names [''], not {['', url]}"]


def test_a_page_without_a_source_is_named(copy: Path) -> None:
    (copy / "more.html").write_text((copy / "index.html").read_text("utf-8"), "utf-8")
    assert "more.html: no Markdown page is its source" in CHECKS["pages"](copy)
    assert "more.html: the description is that of index.html" in CHECKS["texts"](copy)


def test_a_stylesheet_that_asks_another_host_is_named(copy: Path) -> None:
    (copy / STYLES).write_text(
        "@font-face { src: url(https://h.example/f.woff2) }", "utf-8"
    )
    assert CHECKS["hosts"](copy) == [f"{STYLES}: asks https://h.example/f.woff2"]


def test_a_page_that_the_search_reads_wrongly_is_named(copy: Path) -> None:
    index = json.loads((copy / INDEX).read_text("utf-8"))
    url = PATTERN.removesuffix("index.html")
    index["docs"] = [{"location": f"{url}#code", "title": "Code", "text": "import"}]
    (copy / INDEX).write_text(json.dumps(index), "utf-8")
    page = discover(ROOT)[0].page
    found = [line for line in CHECKS["search"](copy) if line.startswith(page)]
    assert found == [
        f"{page}: the search does not know the page",
        f"{page}: the search reads the code; write ## Code {{data-search-exclude}}",
    ]
