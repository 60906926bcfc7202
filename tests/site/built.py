"""What must hold of the built HTML, as checks that return one problem a line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from catalogue.guard.html import check_html, parsed
from catalogue.patterns import discover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bs4 import BeautifulSoup, Tag

CSS_REFERENCE = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
LOADING = ("src", "srcset", "href", "xlink:href", "poster", "data", "action", "ping")


@dataclass(frozen=True)
class Page:
    """One page of the built site."""

    path: str
    html: str

    @property
    def soup(self) -> BeautifulSoup:
        """The page, parsed."""
        return parsed(self.html)

    @property
    def url(self) -> str:
        """The address below the site's root."""
        return self.path.removesuffix("index.html")


def pages(site: Path) -> list[Page]:
    """Return every page but the one for wrong addresses."""
    return [page for page in _every_page(site) if page.path != "404.html"]


def _every_page(site: Path) -> list[Page]:
    paths = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return [_page(site, path, (site / path).stat().st_mtime_ns) for path in paths]


@cache
def _page(site: Path, path: str, _changed: int) -> Page:
    return Page(path, (site / path).read_text("utf-8"))


def expected_pages(root: Path) -> dict[str, Path]:
    """Return the built page of each Markdown page."""
    docs = root / "docs"
    found = {}
    for source in sorted(docs.rglob("*.md")):
        path = source.relative_to(docs)
        folder = path.parent if path.stem == "index" else path.with_suffix("")
        found[(folder / "index.html").as_posix()] = source
    return found


def page_problems(root: Path, site: Path) -> list[str]:
    """Every Markdown page is built, and nothing else is."""
    wanted, built = set(expected_pages(root)), {page.path for page in pages(site)}
    return [
        *(f"{path}: the page is missing" for path in sorted(wanted - built)),
        *(f"{path}: no Markdown page is its source" for path in sorted(built - wanted)),
    ]


def code_problems(root: Path, site: Path) -> list[str]:
    """Every block of code is, in order, the text that its page includes."""
    return [str(problem) for problem in check_html(root, site)]


def blocks(page: Page) -> list[Tag]:
    """Return the blocks of code, without the signatures made from an API's objects."""
    return [
        block
        for block in page.soup.select("pre > code")
        if not block.find_parent(class_="doc-signature")
    ]


def foreign_problems(site: Path) -> list[str]:
    """Nothing that a browser loads by itself comes from another host."""
    found = []
    for page in _every_page(site):
        for tag in page.soup.select("*"):
            found += [f"{page.path}: <{tag.name}> asks {url}" for url in _loaded(tag)]
    for path in sorted(site.rglob("*.css")):
        name = path.relative_to(site).as_posix()
        styles = path.read_text("utf-8")
        found += [f"{name}: asks {url}" for url in _in_styles(styles)]
    return found


def _loaded(tag: Tag) -> Iterator[str]:
    """Yield the addresses of other hosts that the element makes a browser ask."""
    plain = tag.name == "a" or "canonical" in tag.get_attribute_list("rel")
    for name in LOADING:
        value = str(tag.get(name, ""))
        if not (plain and name == "href") and _is_foreign(value):
            yield value
    yield from _in_styles(str(tag.get("style", "")))
    if tag.name == "style":
        yield from _in_styles(tag.get_text())
    refresh = str(tag.get("http-equiv", "")).lower() in {"refresh", "link"}
    if refresh:
        yield str(tag.get("content"))


def _in_styles(styles: str) -> Iterator[str]:
    for one, other in CSS_REFERENCE.findall(styles):
        if _is_foreign(one or other):
            yield one or other


def _is_foreign(url: str) -> bool:
    return bool(re.match(r"\s*([a-z][a-z0-9+.-]*:)?//", url, re.IGNORECASE))


def link_problems(site: Path) -> list[str]:
    """Every link within the site leads to a file, and to the anchor that it names."""
    built = {page.path: page for page in pages(site)}
    anchors = {
        path: {str(tag["id"]) for tag in page.soup.find_all(id=True)}
        for path, page in built.items()
    }
    found = []
    for page in built.values():
        for tag in page.soup.find_all(["a", "link", "script", "img"]):
            value = str(tag.get("href") or tag.get("src") or "")
            if not value or urlsplit(value).scheme or value.startswith("//"):
                continue
            parts = urlsplit(urljoin(f"/{page.url}", value))
            target = unquote(parts.path).removeprefix("/")
            if not target or target.endswith("/"):
                target += "index.html"
            if not (site / target).is_file():
                found.append(f"{page.path}: the link {value} leads nowhere")
            elif parts.fragment and unquote(parts.fragment) not in anchors.get(
                target, {unquote(parts.fragment)}
            ):
                found.append(f"{page.path}: no anchor for the link {value}")
    return found


def text_problems(site: Path) -> list[str]:
    """Every page has one heading, a title and a description of its own."""
    found = []
    seen: dict[str, str] = {}
    for page in pages(site):
        headings = len(page.soup.find_all("h1"))
        if headings != 1:
            found.append(f"{page.path}: {headings} first headings, not 1")
        described = page.soup.select_one('meta[name="description"]')
        texts = {
            "title": page.soup.title.get_text() if page.soup.title else "",
            "description": str(described.get("content", "")) if described else "",
        }
        for kind, text in texts.items():
            if not text.strip():
                found.append(f"{page.path}: no {kind}")
            elif seen.setdefault(text, page.path) != page.path:
                found.append(f"{page.path}: the {kind} is that of {seen[text]}")
    return found


def picture_problems(site: Path) -> list[str]:
    """Every picture and drawing in a text has a text in its place."""
    found = []
    for page in pages(site):
        found += [
            f"{page.path}: a picture without alt: {image.get('src')}"
            for image in page.soup.select("article img")
            if not str(image.get("alt", "")).strip()
        ]
        for drawing in page.soup.select("article svg"):
            named = str(drawing.get("aria-labelledby", "")).split()
            texts = [page.soup.find(id=name) for name in named]
            told = named and all(text and text.get_text().strip() for text in texts)
            hidden = drawing.get("aria-hidden") == "true" or drawing.find_parent("a")
            if not hidden and not (told and drawing.get("role") == "img"):
                found.append(f"{page.path}: a drawing without a text alternative")
    return found


def sitemap_problems(site: Path) -> list[str]:
    """The sitemap names every page once, and no other."""
    text = (site / "sitemap.xml").read_text("utf-8")
    urls = re.findall(r"<loc>([^<]+)</loc>", text)
    home = min(urls, key=len, default="")
    named = sorted(url.removeprefix(home) for url in urls)
    wanted = sorted(page.url for page in pages(site))
    if named == wanted:
        return []
    return [f"sitemap.xml: names {named}, not {wanted}"]


def search_problems(root: Path, site: Path) -> list[str]:
    """The search knows every pattern's page, and reads what it says, not its code.

    Code would outweigh the sentences by which a reader looks for a pattern.
    """
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    known = {entry["location"] for entry in index["docs"]}
    found = []
    for pattern in discover(root):
        if pattern.url not in known:
            found.append(f"{pattern.page}: the search does not know the page")
        if f"{pattern.url}#code" in known:
            wanted = "## Code {data-search-exclude}"
            found.append(f"{pattern.page}: the search reads the code; write {wanted}")
    return found
