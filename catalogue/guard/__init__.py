"""The guard: it names every place where docs and code have drifted apart.

Each module looks for one kind of drift and allows what it knows; what it cannot read
is a problem. `catalogue.guard.html` is the kind that needs the built site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalogue.errors import CatalogueError
from catalogue.guard import (
    assertions,
    commands,
    completeness,
    docstrings,
    excuses,
    fences,
    files,
    imports,
    includes,
    links,
    matrix,
    names,
    notebooks,
    settings,
    shape,
    usage,
    versions,
)
from catalogue.guard.tree import Problem, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Check = Callable[[Tree], Iterator[Problem]]

__all__ = ["Problem", "Tree", "check"]

CHECKS: tuple[Check, ...] = (
    *(assertions.check, commands.check, completeness.check, docstrings.check),
    *(excuses.check, fences.check, files.check, imports.check, includes.check),
    *(links.check, matrix.check, names.check, notebooks.check, settings.check),
    *(shape.check, usage.check, versions.check),
)


def check(root: Path) -> list[Problem]:
    """Return every problem of the tree at `root`, in order of path and line."""
    tree = Tree(root)
    return sorted({problem for kind in CHECKS for problem in _problems(kind, tree)})


def _problems(kind: Check, tree: Tree) -> Iterator[Problem]:
    """Run one check; what it cannot go on from is its last problem."""
    try:
        yield from kind(tree)
    except (CatalogueError, OSError) as error:
        yield Problem.of(CatalogueError.of(error, tree.root))
