"""The tree under guard: each file is read and parsed at most once."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from catalogue import sources
from catalogue.errors import CatalogueError
from catalogue.guard.configuration import (
    PROJECT,
    SITE,
    Tables,
    read_configuration,
    read_project,
)
from catalogue.guard.page import Page, Reader
from catalogue.patterns import Pattern, discover

if TYPE_CHECKING:
    from collections.abc import Callable

PLACED = re.compile(r"(?P<path>[^:\n]+):(?P<line>\d+): (?P<message>.+)", re.DOTALL)
GENERATED = {"build", "docs/data", "tests/site/node_modules"}
HIDDEN_ROOMS = {".ci", ".github"}
PIN = re.compile(r"(?m)^(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>\d[\w.!+]*)")
PINS = "requirements.txt"
T = TypeVar("T")


@cache
def _reader(configuration: str) -> Reader:
    return Reader(read_configuration(configuration))


_nodes = lru_cache(maxsize=1024)(sources.nodes)
_comments = lru_cache(maxsize=1024)(sources.comments)


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that drifted: where it is, what is wrong and how to mend it."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        """Return the line that a person reads."""
        return f"{self.path}:{self.line}: {self.message}"

    @classmethod
    def of(cls, error: CatalogueError) -> Problem:
        """Return the problem that an error names."""
        found = PLACED.fullmatch(str(error))
        if found is None:
            return cls("catalogue", 1, str(error))
        return cls(found["path"], int(found["line"]), found["message"])


class Tree:
    """The files of the catalogue below `root`, and what the parsers make of them.

    A file that is missing or cannot be parsed reads as empty: the check whose matter
    that is names it, and the others go on.
    """

    def __init__(self, root: Path) -> None:
        """Look at the tree at `root`; nothing is read before it is asked for."""
        self.root = root
        self._texts: dict[str, str] = {}
        self._pages: dict[str, Page] = {}

    @cached_property
    def files(self) -> list[str]:
        """Every file and link that is not generated, relative to the root."""
        found: list[str] = []
        for folder, folders, names in os.walk(self.root):
            relative = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if relative == "." else f"{relative}/"
            folders[:] = [
                name
                for name in folders
                if prefix + name not in GENERATED
                and name != "__pycache__"
                and (not name.startswith(".") or name in HIDDEN_ROOMS)
            ]
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            found += [prefix + name for name in (*names, *links)]
        return sorted(found)

    def below(self, room: str, suffix: str) -> list[str]:
        """Return the files in a room whose names end in `suffix`."""
        start = f"{room}/"
        return [p for p in self.files if p.startswith(start) and p.endswith(suffix)]

    def text(self, path: str) -> str:
        """Return a file's text; nothing if there is no such file or it is no UTF-8."""
        if path not in self._texts:
            try:
                self._texts[path] = (self.root / path).read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError):
                self._texts[path] = ""
        return self._texts[path]

    def module(self, path: str) -> ast.Module | None:
        """Return a Python file's syntax tree, or None if it has none."""
        first = next(iter(self.nodes(path)), None)
        return first if isinstance(first, ast.Module) else None

    def nodes(self, path: str) -> list[ast.AST]:
        """Return every node of a Python file's syntax tree."""
        return _nodes(self.text(path))

    def comments(self, path: str) -> list[sources.Comment]:
        """Return every comment of a Python file."""
        return _comments(self.text(path))

    @cached_property
    def patterns(self) -> list[Pattern]:
        """Every pattern of the tree."""
        return discover(self.root)

    @property
    def pages(self) -> list[Page]:
        """Every page of the site."""
        return [self.page(path) for path in self.below("docs", ".md")]

    @property
    def notes(self) -> list[Page]:
        """Every Markdown file that is no page of the site, such as README."""
        paths = [path for path in self.files if path.endswith(".md")]
        return [self.page(path) for path in paths if not path.startswith("docs/")]

    def page(self, path: str) -> Page:
        """Return a Markdown file as the site reads it."""
        if path not in self._pages:
            self._pages[path] = self.reader.read(path, self.text(path))
        return self._pages[path]

    @property
    def reader(self) -> Reader:
        """The site's own Markdown parser."""
        return _reader(self.text(SITE))

    @property
    def config(self) -> dict[str, Any]:
        """The site's configuration; an unreadable one is a `CatalogueError`."""
        return read_configuration(self.text(SITE))

    @cached_property
    def project(self) -> Tables:
        """The tables of pyproject.toml; an unreadable one is a `CatalogueError`."""
        return read_project(self.text(PROJECT))

    def requirements(self, *extras: str) -> dict[str, Requirement]:
        """Return what is declared: what the snippets need, and what each extra adds."""
        table = self.project.project
        texts = list(table.dependencies)
        for extra in extras:
            texts += table.extras[extra]
        declared = [self._declared(Requirement, text) for text in texts]
        return {canonicalize_name(one.name): one for one in declared}

    def _declared(self, kind: Callable[[str], T], text: str, path: str = PROJECT) -> T:
        try:
            return kind(text)
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            message = f"{path}:{self.line_of(path, text)}: {text!r}: {reason}"
            raise CatalogueError(message) from error

    @property
    def pythons(self) -> SpecifierSet:
        """The versions of Python that the project is for."""
        return self._declared(SpecifierSet, self.project.project.python)

    @property
    def extras(self) -> list[str]:
        """The names of the optional groups of dependencies."""
        return list(self.project.project.extras)

    @cached_property
    def pins(self) -> dict[str, Version]:
        """The version that requirements.txt pins, by canonical name."""
        return {
            canonicalize_name(found["name"]): self._declared(
                Version, found["version"], PINS
            )
            for found in PIN.finditer(self.text(PINS))
        }

    def line_of(self, path: str, words: str) -> int:
        """Return the first line of a file in which `words` stand; 1 if in none."""
        for number, line in enumerate(self.text(path).splitlines(), 1):
            if words in line:
                return number
        return 1
