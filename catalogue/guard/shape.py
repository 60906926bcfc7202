"""Kind 6: a file or a page that is longer or otherwise built than all the others."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from catalogue.errors import CatalogueError
from catalogue.guard.tree import Problem
from catalogue.patterns import Pattern, read_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.page import Page
    from catalogue.guard.tree import Tree

SNIPPET_LINES = 150
NAIVE_LINES = 40
PAGE_WORDS = 700
HEADINGS = [
    "When to use it",
    "Code",
    "What breaks without it",
    "How it works",
    "Consequences",
    "Evidence",
    "Related patterns",
]
CARD_COMES_FIRST = "the card comes first; begin the page with its include"


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each file that is too long and each page that is not built as all are."""
    for path in tree.below("snippets", ".py"):
        limit = NAIVE_LINES if path.endswith("_naive.py") else SNIPPET_LINES
        count = len(tree.text(path).splitlines())
        if count > limit:
            message = f"{count} lines, more than {limit}; it is two patterns, or wordy"
            yield Problem(path, limit + 1, message)
    for page in tree.pages:
        try:
            read_fields(tree.root, page.path)
        except CatalogueError as error:
            yield Problem.of(error)
    for pattern in tree.patterns:
        if pattern.page in tree.files:
            page = tree.page(pattern.page)
            yield from _front_matter(pattern)
            yield from _headings(page)
            yield from _card(pattern, page)
            yield from _copied(pattern, page)
            if page.words > PAGE_WORDS:
                message = f"{page.words} words of prose, more than {PAGE_WORDS}; cut"
                yield Problem(page.path, page.first, message)


def _front_matter(pattern: Pattern) -> Iterator[Problem]:
    try:
        _ = pattern.front_matter
    except CatalogueError as error:
        yield Problem.of(error)


def _headings(page: Page) -> Iterator[Problem]:
    wanted = iter(HEADINGS)
    for heading in page.headings:
        if heading.level == 1:
            message = "the title comes from the front matter; remove this heading"
            yield Problem(page.path, page.locate(heading.text, before="# "), message)
        if heading.level != len("##"):
            continue
        expected = next(wanted, None)
        if heading.text != expected:
            line = page.locate(heading.text, before="## ")
            message = f"the heading here must be {expected!r}, not {heading.text!r}"
            if expected is None:
                message = f"{heading.text!r} follows the last heading; use ### or less"
            yield Problem(page.path, line, message)
            return
    missing = next(wanted, None)
    if missing:
        message = f"the heading {missing!r} is missing; write that section"
        yield Problem(page.path, max(len(page.lines), 1), message)


def _card(pattern: Pattern, page: Page) -> Iterator[Problem]:
    folder = f"build/fragments/{pattern.category}/{pattern.slug}"
    shown = [include.path for include in page.in_text]
    for name in ("card", "breaks", "diagram", "evidence"):
        count = shown.count(f"{folder}/{name}.md")
        if count != 1:
            message = f"{folder}/{name}.md is included {count} times; include it once"
            yield Problem(page.path, page.first, message)
    body = [line for line in page.lines[page.first - 1 :] if line.strip()]
    if not body or f"{folder}/card.md" not in body[0]:
        yield Problem(page.path, page.first, CARD_COMES_FIRST)


def _copied(pattern: Pattern, page: Page) -> Iterator[Problem]:
    """Check that the text under Code links each module that has to be copied too."""
    text = "\n".join(page.lines).partition("\n## Code")[2].partition("\n===")[0]
    for path in pattern.companions:
        id_ = path.removeprefix("snippets/").removesuffix(".py")
        target = Pattern(id=id_, root=pattern.root).page
        link = posixpath.relpath(target, posixpath.dirname(pattern.page))
        if f"]({link})" not in text:
            message = f"its module imports {path}; link {link} here, to be copied too"
            yield Problem(page.path, page.locate("Code", before="## "), message)
