"""Kind 6: a test that asserts nothing, and so cannot fail for what it says.

Nor can one that returns before it asserts, that catches what its assertion raises, or
that asserts in a function which it never calls.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from catalogue import sources
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree
    from catalogue.sources import Function

ASSERTING = {"assert_type", "pytest.fail", "pytest.raises", "pytest.warns", "wait_for"}
LIMIT = "asyncio.wait_for"
"""Limits the time of what it is given; that of a browser's locator asserts."""
CAUGHT = re.compile(r"\b(AssertionError|Exception|BaseException)\b|^\*$")
BACKEND = re.compile(r"backend|dialect")
FORGIVING = re.compile(r"(\w+\.)*(suppress\(|raises\(AssertionError\b)")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each test without an assertion, or that passes without one."""
    for path in tree.below("tests", ".py"):
        functions = sources.functions(tree.nodes(path))
        asserting = ASSERTING | set(_helpers(tree, path))
        size = 0
        while size != len(asserting):
            size = len(asserting)
            asserting |= {one.name for one in functions if _asserts(one, asserting)}
        for one in functions:
            if one.name.startswith("test_") and one.name not in asserting:
                message = f"{one.name} asserts nothing; assert what its name says"
                yield Problem(path, one.lineno, message)
            elif one.name.startswith("test_"):
                yield from _escapes(path, one, asserting)


def _asserts(node: ast.AST, asserting: set[str]) -> bool:
    """Whether a node is or holds an assertion, or a call of what asserts."""
    return any(_is_assertion(one, asserting) for one in ast.walk(node))


def _is_assertion(node: ast.AST, asserting: set[str]) -> bool:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        names = {name, name.rpartition(".")[2]}
        return name != LIMIT and not names.isdisjoint(asserting)
    return isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant)


def _surely(steps: list[ast.stmt], asserting: set[str]) -> bool:
    """Whether the steps assert on every backend."""
    return any(_asserts_at(step, asserting) for step in steps)


def _asserts_at(step: ast.stmt, asserting: set[str]) -> bool:
    match step:
        case ast.If(test=test, body=body, orelse=orelse) if BACKEND.search(
            ast.unparse(test)
        ):
            return _surely(body, asserting) and _surely(orelse, asserting)
        case ast.With(body=body, items=items) | ast.AsyncWith(body=body, items=items):
            managed = any(_asserts(one.context_expr, asserting) for one in items)
            return managed or _surely(body, asserting)
        case _:
            return _asserts(step, asserting)


def _escapes(path: str, test: Function, asserting: set[str]) -> Iterator[Problem]:
    """Yield where a test returns before it asserts, or catches a failed assertion."""
    if not _surely(test.body, asserting):
        message = f"{test.name} asserts on some backends only; assert on all"
        yield Problem(path, test.lineno, message)
    own = list(_own(test))
    asserted = (
        one.lineno
        for one in own
        if isinstance(one, ast.stmt | ast.expr) and _is_assertion(one, asserting)
    )
    first = min(asserted, default=0)
    handlers = [node for node in own if isinstance(node, ast.ExceptHandler)]
    refused = {node for handler in handlers for node in ast.walk(handler)}
    used = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    inner = (child for node in (test, *own) for child in ast.iter_child_nodes(node))
    for one in sources.functions(inner):
        if one.name not in used and not one.decorator_list:
            message = f"{test.name} never calls {one.name}; call it, or take it away"
            yield Problem(path, one.lineno, message)
    for node in own:
        if isinstance(node, ast.Return) and node.lineno < first and node not in refused:
            message = f"{test.name} returns before it asserts; assert here too"
            yield Problem(path, node.lineno, message)
        body = _forgiven(node)
        if any(_asserts(step, asserting) for step in body):
            message = "an assertion that fails here passes; catch less"
            yield Problem(path, body[0].lineno, message)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a function holds, without the functions that it defines."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, DEFINITIONS):
            yield child
            yield from _own(child)


def _forgiven(node: ast.AST) -> list[ast.stmt]:
    """Return the statements in which a failed assertion is caught."""
    match node:
        case ast.Try(body=body, handlers=handlers):
            caught = [ast.unparse(one.type) if one.type else "*" for one in handlers]
        case ast.With(body=body, items=items) | ast.AsyncWith(body=body, items=items):
            managers = [ast.unparse(one.context_expr) for one in items]
            caught = [one for one in managers if FORGIVING.match(one)]
        case _:
            return []
    return body if any(CAUGHT.search(one) for one in caught) else []


def _helpers(tree: Tree, path: str) -> Iterator[str]:
    """Yield the asserting functions and methods of the tests a file imports from."""
    for name in sources.imports(tree.nodes(path)):
        if name.startswith("tests."):
            helper = tree.nodes(name.replace(".", "/") + ".py")
            for other in sources.functions(helper):
                if _asserts(other, ASSERTING):
                    yield other.name
