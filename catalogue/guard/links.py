"""Kind 5: a link that the strict build of the site does not look at."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.page import Page
    from catalogue.guard.tree import Tree

RAW = re.compile(r"""(?i)<[a-z][^>]*?\b(?:href|src|action)\s*=\s*["']?([^"'\s>]+)""")


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each link in raw HTML, or outside the site, that leads to nothing."""
    for page in tree.notes:
        yield from _in_notes(tree, page)
    for page in tree.pages:
        text = "\n".join(page.lines[page.first - 1 :])
        for found in RAW.finditer(text):
            fault = _fault(tree, page, found[1])
            if fault:
                number = page.first + text.count("\n", 0, found.start(1))
                message = f"the link {found[1]} {fault}; write a Markdown link"
                yield Problem(page.path, number, message)


def _in_notes(tree: Tree, page: Page) -> Iterator[Problem]:
    """Yield each relative link of a file that people read where it stands."""
    for link in page.soup.find_all("a", href=True):
        target = str(link["href"])
        parts = urlsplit(target)
        path = posixpath.normpath(
            posixpath.join(posixpath.dirname(page.path), parts.path)
        )
        if not parts.scheme and parts.path and not (tree.root / path).exists():
            message = f"the link {target} leads nowhere; correct it"
            yield Problem(page.path, page.locate(target), message)


def _fault(tree: Tree, page: Page, target: str) -> str | None:
    parts = urlsplit(target)
    if parts.scheme in {"http", "https", "mailto"}:
        return None
    if parts.scheme or parts.netloc or target.startswith("/"):
        return "is not relative"
    joined = posixpath.join(_address(page.path), unquote(parts.path))
    address = posixpath.normpath(joined)
    found = _source(tree, "" if address == "." else address)
    if found is None:
        return "leads nowhere"
    if parts.fragment and found.endswith(".md"):
        anchors = {heading.anchor for heading in tree.page(found).headings}
        return None if parts.fragment in anchors else "names no heading of that page"
    return None


def _address(path: str) -> str:
    """Return the folder in which the site shows a page."""
    name = path.removeprefix("docs/").removesuffix(".md")
    return name.removesuffix("index").rstrip("/")


def _source(tree: Tree, address: str) -> str | None:
    """Return the file that the site shows at an address."""
    name = f"docs/{address}".rstrip("/")
    found = [path for path in (f"{name}.md", f"{name}/index.md") if path in tree.files]
    if found:
        return found[0]
    # Downloads are generated, so they are not among the files of the tree.
    inside = not address.startswith("..")
    return name if inside and (tree.root / name).is_file() else None
