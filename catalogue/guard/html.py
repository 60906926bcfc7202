"""Kind 9: built HTML whose code is not, byte for byte, what its page includes."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from bs4 import BeautifulSoup, Tag

from catalogue import notebooks
from catalogue.guard.docstrings import examples
from catalogue.guard.includes import FRAGMENTS, included_text
from catalogue.guard.tree import Problem, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from catalogue.guard.page import Page

NOTEBOOKS = f"{FRAGMENTS}notebooks/"
SIGNATURE = "doc-signature"
"""The class of a signature, which is made from the code itself and typed nowhere."""
API = "doc-contents"
PREFORMATTED = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
COLOUR = re.compile(r'<span(?: class="[^"]*")?>|</span>')
"""A span that says nothing but how its text looks."""
MEND = "build again, and mend what changes it"


def check_html(root: Path, site: Path) -> list[Problem]:
    """Return each block of code in a built site that is not what its page includes.

    Every page must be there, with all its blocks in their order; no other page may
    have code. Examples in an API reference must be those of the docstrings.
    """
    tree = Tree(root)
    found: list[Problem] = []
    wanted = {_built(page): page for page in tree.pages}
    built = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    for name in sorted(wanted.keys() - built.keys()):
        message = f"{name} is not in the built site; build again"
        found.append(Problem(wanted[name].path, 1, message))
    run = {
        one for path in tree.below("snippets", ".py") for one in examples(tree, path)
    }
    for name, path in sorted(built.items()):
        blocks = list(_blocks(path.read_text("utf-8")))
        own = [block for block in blocks if not block.find_parent(class_=API)]
        page = wanted.get(name)
        if page:
            found += _compare(page, name, own, list(_expected(tree, page)))
        elif own:
            message = f"{name} shows code and has no page; remove it"
            found.append(Problem("docs", 1, message))
        for block in blocks:
            if block.find_parent(class_=API) and block.get_text().strip() not in run:
                message = f"{name} shows an example that no docstring has; {MEND}"
                found.append(Problem(page.path if page else "docs", 1, message))
    return found


def _compare(
    page: Page, name: str, blocks: list[Tag], wanted: list[tuple[str, int, str]]
) -> Iterator[Problem]:
    texts = [block.get_text() for block in blocks]
    wrong = [
        (number, source, line)
        for number, (source, line, text) in enumerate(wanted, 1)
        if texts[number - 1 : number] != [text]
    ]
    if len(texts) != len(wanted):
        line = wrong[0][2] if wrong else 1
        message = f"{name} has {len(texts)} blocks of code, not {len(wanted)}; {MEND}"
        yield Problem(page.path, line, message)
        return
    for number, source, line in wrong:
        message = f"block {number} of {name} is not {source}; {MEND}"
        yield Problem(page.path, line, message)


def _blocks(html: str) -> Iterator[Tag]:
    for block in parsed(html).find_all("pre"):
        if not block.find_parent(class_=SIGNATURE):
            yield block


@lru_cache(maxsize=1024)
def parsed(html: str) -> BeautifulSoup:
    """Return a page's elements, without the colours of code.

    Their spans are most of a page, and to parse it is most of the cost of a check.
    """
    return BeautifulSoup(PREFORMATTED.sub(_without_colours, html), "html.parser")


def _without_colours(block: re.Match[str]) -> str:
    plain = COLOUR.sub("", block[0])
    return block[0] if "<span" in plain else plain


def _built(page: Page) -> str:
    """Return where the site puts a page."""
    path = PurePosixPath(page.path.removeprefix("docs/"))
    folder = path.parent if path.stem == "index" else path.with_suffix("")
    return str(folder / "index.html")


def _expected(tree: Tree, page: Page) -> Iterator[tuple[str, int, str]]:
    """Yield the source, the line of the include, and the text of each block."""
    for include, in_code in page.shown:
        if in_code:
            yield include.target, include.line, included_text(tree, include)
        elif include.path.startswith(NOTEBOOKS):
            stem = include.path.removeprefix(NOTEBOOKS).removesuffix(".md")
            path = f"notebooks/{stem}.ipynb"
            for text in _cells(tree, path):
                yield path, include.line, text


def _cells(tree: Tree, path: str) -> Iterator[str]:
    """Yield what each code cell holds, and what it left behind."""
    for cell in notebooks.read(tree.root, tree.root / path).cells:
        if cell.cell_type == "code":
            shown = "\n".join(output.shown() for output in cell.outputs)
            for text in (cell.source, shown):
                if text.strip("\n"):
                    yield text.strip("\n") + "\n"
