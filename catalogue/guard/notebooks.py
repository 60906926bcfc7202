"""Kind 4: a notebook that stores what its cells do not give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalogue import notebooks
from catalogue.errors import CatalogueError
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree


def check(tree: Tree) -> Iterator[Problem]:
    """Yield what is wrong in each notebook, and each notebook that no page shows.

    Whether a cell still prints what is stored, only running it tells: nbval does.
    """
    included = {include.path for page in tree.pages for include in page.in_text}
    for path in tree.below("notebooks", ".ipynb"):
        try:
            found = notebooks.problems(tree.root, tree.root / path)
        except CatalogueError as error:
            yield Problem.of(error)
            continue
        yield from (Problem(path, line, message) for line, message in found)
        stem = path.removeprefix("notebooks/").removesuffix(".ipynb")
        fragment = f"build/fragments/notebooks/{stem}.md"
        if fragment not in included:
            yield Problem(path, 1, f"no page shows it; include {fragment} in one")
