"""Reading the files of the tree: what cannot be read is an error with its place."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from catalogue.errors import CatalogueError

if TYPE_CHECKING:
    from pathlib import Path


def read(root: Path, path: str) -> str:
    """Return a file's text; one that is missing or no text is a `CatalogueError`."""
    try:
        return (root / path).read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise CatalogueError(f"{path}:1: the file is missing; write it") from error
    except UnicodeDecodeError as error:
        message = f"{path}:1: not text in UTF-8; save it as such"
        raise CatalogueError(message) from error


def parse(root: Path, path: str) -> ast.Module:
    """Return a Python file's syntax tree; one that has none is a `CatalogueError`."""
    try:
        return ast.parse(read(root, path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        message = f"{path}:{line}: not Python: {getattr(error, 'msg', error)}"
        raise CatalogueError(message) from error
