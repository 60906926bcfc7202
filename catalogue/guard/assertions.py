"""Kind 6: a test that asserts nothing, and so cannot fail for what it says."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

    Function = ast.FunctionDef | ast.AsyncFunctionDef

ASSERTING = {"assert_type", "fail", "raises", "wait_for", "warns"}
LIMIT = "asyncio.wait_for"
"""Limits the time of what it is given; that of a browser's locator asserts."""


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each test without an assertion of its own or of a function it calls."""
    for path in tree.below("tests", ".py"):
        functions = [
            node
            for node in tree.nodes(path)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        asserting = ASSERTING | set(_helpers(tree, path))
        size = 0
        while size != len(asserting):
            size = len(asserting)
            asserting |= {one.name for one in functions if _asserts(one, asserting)}
        for one in functions:
            if one.name.startswith("test_") and one.name not in asserting:
                message = f"{one.name} asserts nothing; assert what its name says"
                yield Problem(path, one.lineno, message)


def _asserts(function: Function, asserting: set[str]) -> bool:
    """Whether a function asserts, or calls what does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name != LIMIT and name.rpartition(".")[2] in asserting:
                return True
    return False


def _helpers(tree: Tree, path: str) -> Iterator[str]:
    """Yield the asserting functions and methods of the tests a file imports from."""
    for node in tree.nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "tests."
        ):
            source = (node.module or "").replace(".", "/") + ".py"
            for other in tree.nodes(source) if source in tree.files else ():
                if isinstance(other, ast.FunctionDef | ast.AsyncFunctionDef) and (
                    _asserts(other, ASSERTING)
                ):
                    yield other.name
