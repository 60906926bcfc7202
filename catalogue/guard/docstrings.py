"""Kinds 1 and 3: code in a docstring that the site shows and no test ran."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING

from pytest_examples import find_examples

from catalogue import notebooks
from catalogue.errors import CatalogueError
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.page import Page
    from catalogue.guard.tree import Tree


FENCES = ("```", "~~~")
UNRUN = (
    'code that no test runs; make it a ```python fence in a """ docstring, '
    "or say it in words"
)

TO_SOURCE = 2
"""The lines from a cell's id to its text, in a notebook that make fix wrote."""


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each piece of code in a docstring which is not an example that runs."""
    for path in tree.below("snippets", ".py"):
        run = examples(tree, path)
        for docstring in docstrings(tree, path):
            yield from _problems(docstring, run)


def examples(tree: Tree, path: str) -> set[str]:
    """Return the source of each example that pytest-examples finds in a file."""
    if "```" not in tree.text(path):
        return set()
    found = find_examples(tree.root / path)
    return {one.source.strip() for one in found if one.prefix == "python"}


def _problems(page: Page, run: set[str]) -> Iterator[Problem]:
    fences = 0
    for number, line in enumerate(page.lines, page.offset + 1):
        fences += line.lstrip().startswith(FENCES)
        if line.lstrip().startswith(">>> "):
            message = "a >>> example never runs; write a ```python fence"
            yield Problem(page.path, number, message)
    for block in page.blocks:
        if block.text.strip() not in run:
            yield Problem(page.path, page.line(block), UNRUN)
    if fences not in {0, 2 * len(page.blocks)}:
        message = "a fence that is not closed, or not alone on its line; mend it"
        yield Problem(page.path, page.offset + 1, message)


def told(tree: Tree) -> Iterator[Page]:
    """Yield what docstrings and notebooks tell, each as the site reads it."""
    for path in tree.below("snippets", ".py"):
        yield from docstrings(tree, path)
    for path in tree.below("notebooks", ".ipynb"):
        try:
            cells = notebooks.read(tree.root, tree.root / path).cells
        except CatalogueError:
            continue  # what cannot be read is another check's matter
        for cell in cells:
            if cell.cell_type == "markdown":
                yield tree.reader.read(path, cell.source, cell.line + TO_SOURCE)


def docstrings(tree: Tree, path: str) -> Iterator[Page]:
    """Yield every string which stands as a statement: of modules, names and fields.

    Each is read as the site reads it.
    """
    for node in tree.nodes(path):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            raw = node.value.value
            blank = len(raw) - len(raw.lstrip("\n"))
            before = node.lineno + blank - 1
            yield tree.reader.read(path, inspect.cleandoc(raw), before)
