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
        for element in page.soup.find_all(["a", "img"]):
            target = str(element.get("href") or element.get("src") or "")
            if fault := _fault(tree, page, target):
                message = f"the link {target} {fault}; correct it"
                yield Problem(page.path, page.locate(target), message)
    for page in tree.pages:
        text = "\n".join(page.lines[page.first - 1 :])
        for found in RAW.finditer(text):
            if fault := _fault(tree, page, found[1]):
                number = page.first + text.count("\n", 0, found.start(1))
                message = f"the link {found[1]} {fault}; write a Markdown link"
                yield Problem(page.path, number, message)


def _fault(tree: Tree, page: Page, target: str) -> str | None:
    try:
        parts = urlsplit(target)
    except ValueError:
        return "is no address"
    if parts.scheme in {"http", "https", "mailto"}:
        return None
    if parts.scheme or parts.netloc or target.startswith("/"):
        return "is not relative"
    path = unquote(parts.path)
    on_site = page.path.startswith("docs/")
    found = _on_site(tree, page, path) if on_site else _beside(tree, page, path)
    if found is None:
        return "leads nowhere"
    if parts.fragment and found.endswith(".md"):
        anchors = {heading.anchor for heading in tree.page(found).headings}
        return None if parts.fragment in anchors else "names no heading of that page"
    return None


def _beside(tree: Tree, page: Page, path: str) -> str | None:
    """Return the file or folder to which a link leads from a file read in its place."""
    if not path:
        return page.path
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), path))
    inside = not joined.startswith("..")
    return joined if inside and (tree.root / joined).exists() else None


def _on_site(tree: Tree, page: Page, path: str) -> str | None:
    """Return the file that the site shows where a link leads to from a page."""
    address = posixpath.normpath(posixpath.join(_address(page.path), path))
    name = f"docs/{'' if address == '.' else address}".rstrip("/")
    found = [path for path in (f"{name}.md", f"{name}/index.md") if path in tree.files]
    if found:
        return found[0]
    # Downloads are generated, so they are not among the files of the tree.
    inside = not address.startswith("..")
    return name if inside and (tree.root / name).is_file() else None


def _address(path: str) -> str:
    """Return the folder in which the site shows a page."""
    name = path.removeprefix("docs/").removesuffix(".md")
    return name.removesuffix("index").rstrip("/")
