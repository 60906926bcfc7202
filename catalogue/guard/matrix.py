"""Kind 7: a row of the comparison that says more than ran, a score typed by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from catalogue import comparison, record
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

COMPARING = ("docs/compare/", "docs/index.md")
SCORE = re.compile(
    r"\b(?P<number>\d+(\.\d+)?)"
    r"\s*(%|per\s?cent\b|(out\s+)?of\s+\d+\b|/\s*\d+\b)"
)


def check(tree: Tree) -> Iterator[Problem]:
    """Yield what the comparison says and the tree or the verification record denies."""
    verified = record.verified(record.load(tree.root), tree.patterns)
    compared = comparison.load(tree.root)
    for error in comparison.problems(compared, tree.patterns, verified):
        yield Problem.of(error)
    for page in tree.pages:
        if not page.path.startswith(COMPARING):
            continue
        for text in page.said:
            found = SCORE.search(text)
            if found:
                words = " ".join(found.group().split())
                message = f"the score {words!r} is typed; include the computed one"
                yield Problem(page.path, page.place(found), message)
