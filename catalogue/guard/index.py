"""Every name that the code of the tree defines, imports or uses."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import keyword
import re
import sys
import warnings
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from catalogue.sources import Function, providers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

ROOMS = ("snippets", "tests", "catalogue")
ABOUT_THE_CATALOGUE = ("tests/drift/", "tests/site/", "tests/examples/")
JSON = {"false", "null", "true"}
KEYWORDS = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), *JSON}


class Index:
    """What a back-ticked name on a page may mean."""

    def __init__(self, tree: Tree) -> None:
        """Read the snippets, the tests and the machinery."""
        self._tree = tree
        self.modules: dict[str, str] = {}
        self.definitions: dict[str, list[ast.stmt]] = defaultdict(list)
        self.imports: dict[str, set[str]] = defaultdict(set)
        self.identifiers: set[str] = set()
        self.chains: set[str] = set()
        self.strings: set[str] = set()
        for room in ROOMS:
            for path in tree.below(room, ".py"):
                if not path.startswith(ABOUT_THE_CATALOGUE):
                    self._read(path)

    def _read(self, path: str) -> None:
        module = self._tree.module(path)
        if module is None:
            return
        dotted = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.modules[dotted] = path
        self.identifiers.add(dotted.rpartition(".")[2])
        for statement in module.body:
            for name in _bound(statement):
                self.definitions[name].append(statement)
        for node in self._tree.nodes(path):
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Attribute(attr=name):
                self.identifiers.add(name)
                if isinstance(node.value, ast.Name | ast.Attribute):
                    self.chains.add(ast.unparse(node))
            case (
                ast.Name(id=name)
                | ast.arg(arg=name)
                | ast.keyword(arg=str(name))
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                self.identifiers.add(name)
            case ast.Constant(value=str(text)) if not re.search(r"\s", text):
                self.strings.add(text)
            case ast.Import(names=aliases):
                for alias in aliases:
                    local = alias.asname or alias.name.partition(".")[0]
                    self.imports[local].add(alias.name if alias.asname else local)
            case ast.ImportFrom(module=str(origin), names=aliases):
                for alias in aliases:
                    local = alias.asname or alias.name
                    self.imports[local].add(f"{origin}.{alias.name}")

    def knows(self, name: str) -> bool:
        """Whether a single name means something: a type if it looks like one."""
        if name in KEYWORDS or name in self.definitions or name in self.imports:
            return True
        if name[:1].isupper() and not name.isupper():
            return False
        used = name in self.identifiers or name in self.strings
        return used or name in self._importable

    def resolves(self, dotted: str) -> bool:
        """Whether a dotted name leads from a module, type or variable to its end."""
        parts = dotted.split(".")
        if len(parts) == 1:
            return self.knows(dotted)
        for length in range(len(parts), 0, -1):
            path = self.modules.get(".".join(parts[:length]))
            if path is not None:
                return self._in_module(path, parts[length:])
        first, rest = parts[0], parts[1:]
        classes = [
            statement
            for statement in self.definitions.get(first, ())
            if isinstance(statement, ast.ClassDef)
        ]
        if classes:
            return any(self._in_statement(one, rest) for one in classes)
        origins = self.imports.get(first, set())
        if any(self._in_library([*origin.split("."), *rest]) for origin in origins):
            return True
        return dotted in self.chains or self._in_library(parts)

    def _in_module(self, path: str, rest: list[str]) -> bool:
        module = self._tree.module(path)
        if not rest or module is None:
            return True
        return any(
            self._in_statement(statement, rest[1:])
            for statement in module.body
            if rest[0] in _bound(statement)
        )

    def _in_statement(self, statement: ast.stmt, rest: list[str]) -> bool:
        if not rest:
            return True
        if not isinstance(statement, ast.ClassDef):
            return False
        return len(rest) == 1 and self._has_member(statement, rest[0], set())

    def _has_member(self, owner: ast.ClassDef, name: str, seen: set[str]) -> bool:
        if name in _members(owner):
            return True
        for base in owner.bases:
            dotted = ast.unparse(base).partition("[")[0]
            if dotted in seen:
                continue
            seen.add(dotted)
            for other in self.definitions.get(dotted, ()):
                if isinstance(other, ast.ClassDef) and self._has_member(
                    other, name, seen
                ):
                    return True
            first, *rest = dotted.split(".")
            for origin in self.imports.get(first, set()):
                if self._in_library([*origin.split("."), *rest, name]):
                    return True
        return False

    @cached_property
    def _importable(self) -> set[str]:
        """The packages that may be imported: the standard library and the declared."""
        declared = set(self._tree.requirements(*self._tree.extras))
        packages = {
            package
            for package, names in providers().items()
            if declared & {canonicalize_name(name) for name in names}
        }
        return packages | set(sys.stdlib_module_names)

    def _in_library(self, parts: list[str]) -> bool:
        """Whether importing finds the object; only declared packages are imported."""
        if parts[0] not in self._importable:
            return False
        found: object = None
        taken = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for taken in range(len(parts), 0, -1):
                try:
                    found = importlib.import_module(".".join(parts[:taken]))
                except ImportError:
                    continue
                break
            for name in parts[taken:]:
                if not hasattr(found, name):
                    return name == parts[-1] and name in _fields(found)
                found = getattr(found, name)
        return True


def _fields(owner: object) -> set[str]:
    """Return the annotated fields of a class, which are no attributes of it."""
    classes = owner.__mro__ if isinstance(owner, type) else ()
    return {name for one in classes for name in inspect.get_annotations(one)}


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names which a statement at the top of a module defines."""
    match statement:
        case (
            ast.FunctionDef(name=name)
            | ast.AsyncFunctionDef(name=name)
            | ast.ClassDef(name=name)
            | ast.AnnAssign(target=ast.Name(id=name))
        ):
            yield name
        case ast.Assign(targets=targets):
            for target in targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        yield node.id


def _members(owner: ast.ClassDef) -> set[str]:
    """Return the names of a class's own attributes, methods and fields."""
    found: set[str] = set()
    for statement in owner.body:
        found.update(_bound(statement))
        if isinstance(statement, Function):
            found.update(
                node.attr
                for node in ast.walk(statement)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id in {"self", "cls"}
            )
    return found
