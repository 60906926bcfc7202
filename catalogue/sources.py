"""Reading and writing the files of the tree, and what is in those of Python."""

from __future__ import annotations

import ast
import io
import os
import tokenize
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from typing import TYPE_CHECKING, TypeAlias

from catalogue.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

providers = cache(packages_distributions)
"""The distributions that install each package, looked up once a process."""


def read(root: Path, path: str) -> str:
    """Return a file's text; one that is missing or no text is a `CatalogueError`."""
    try:
        return (root / path).read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise CatalogueError(f"{path}:1: the file is missing; write it") from error
    except OSError as error:
        raise CatalogueError.of(error, root, path) from error
    except UnicodeDecodeError as error:
        message = f"{path}:1: not text in UTF-8; save it as such"
        raise CatalogueError(message) from error


def write(root: Path, path: str, text: str) -> bool:
    """Make a file hold this text, in one step; return whether it did not yet.

    A write that fails or is interrupted leaves the file as it was, and a reader never
    sees half of it. What cannot be written is a `CatalogueError`.
    """
    data = text.encode("utf-8")
    target, draft = root / path, root / f"build/{os.getpid()}.draft"
    try:
        if target.exists() and target.read_bytes() == data:
            return False
        for folder in (target.parent, draft.parent):
            folder.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(target)
    except OSError as error:
        raise CatalogueError.of(error, root, path) from error
    return True


def parse(root: Path, path: str) -> ast.Module:
    """Return a Python file's syntax tree; one that has none is a `CatalogueError`."""
    try:
        return ast.parse(read(root, path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        message = f"{path}:{line}: not Python: {getattr(error, 'msg', error)}"
        raise CatalogueError(message) from error


def nodes(text: str) -> list[ast.AST]:
    """Return the module that a text is, and all nodes below it; none if it is none."""
    try:
        return list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return []


@dataclass(frozen=True)
class Comment:
    """A comment of a Python file, and whether it has its line to itself."""

    line: int
    text: str
    alone: bool


def comments(text: str) -> list[Comment]:
    """Return a module's comments, none if it is no Python."""
    try:
        return [
            Comment(one.start[0], one.string, not one.line[: one.start[1]].strip())
            for one in tokenize.generate_tokens(io.StringIO(text).readline)
            if one.type == tokenize.COMMENT
        ]
    except (tokenize.TokenError, SyntaxError):
        return []


def imports(code: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the full names of what some nodes import: modules, and what is in them."""
    for node in code:
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=str(module), names=aliases):
                yield module
                yield from (f"{module}.{alias.name}" for alias in aliases)


def functions(code: Iterable[ast.AST]) -> list[Function]:
    """Return the functions among some nodes, whether they are awaited or not."""
    return [node for node in code if isinstance(node, Function)]


def tests(module: ast.Module) -> set[str]:
    """Return the names of the tests in a file."""
    found = functions(module.body)
    return {one.name for one in found if one.name.startswith("test_")}
