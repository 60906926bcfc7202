"""Kind 8: a snippet that needs what is not declared, or works when it is imported."""

from __future__ import annotations

import ast
import re
import sys
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from catalogue.guard.tree import Problem
from catalogue.sources import providers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

OWN = "snippets"
FOLDER = re.compile(rf"{OWN}(\.\w+)?|importlib")
"""From these, modules are imported by name."""
ONLY_IN_USAGE = "fakeredis"
HIDDEN_IMPORTS = {"__builtins__", "__import__", "compile", "eval", "exec"}
HIDDEN_MODULES = {"builtins", "imp", "importlib", "pkgutil", "runpy", "zipimport"}
IMPORTLIB_ALLOWED = {"importlib.metadata", "importlib.resources"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "sys.path", "sys.modules"}
DECLARATIONS = {
    *("dict", "frozenset", "object", "set", "tuple", "type"),
    *("ContextVar", "Decimal", "Lock", "MappingProxyType", "Path", "UUID"),
    *("compile", "getLogger", "immutabledict", "partial", "timedelta"),
    *("NewType", "ParamSpec", "TypeVar", "TypeVarTuple"),
    *("APIRouter", "Depends"),
    *("Boolean", "CheckConstraint", "Column", "DateTime", "ForeignKey", "Index"),
    *("Integer", "MetaData", "String", "Table", "Text", "UniqueConstraint", "Uuid"),
    *("mapped_column", "relationship"),
}
"""What a constant may call: it makes a value, and neither waits, reads nor connects."""
SQL_FUNCTION = re.compile(r"(.+\.)?func\.\w+")


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each import that a reader could not make, and each deed of importing."""
    declared = set(tree.requirements())
    for path in tree.below(OWN, ".py"):
        module = tree.module(path)
        if module is None:
            continue
        allowed = set(declared)
        if path.endswith("_usage.py"):
            allowed.add(ONLY_IN_USAGE)
        for node in tree.nodes(path):
            for name in _imported(node):
                fault = _import_fault(tree, name, allowed)
                if fault:
                    yield Problem(path, _line(node), fault)
            fault = _form_fault(node) or _hidden_fault(node, path)
            if fault:
                yield Problem(path, _line(node), fault)
        values = DECLARATIONS | _own_classes(module)
        for statement in module.body:
            yield from _deeds(path, statement, values)


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 1))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        if FOLDER.fullmatch(node.module):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield node.module


def _import_fault(tree: Tree, name: str, allowed: set[str]) -> str | None:
    top = name.partition(".")[0]
    if top == OWN:
        return _own_fault(tree, name)
    if top in HIDDEN_MODULES and name not in IMPORTLIB_ALLOWED:
        return f"{name} imports what nobody sees; import it by name"
    if top in sys.stdlib_module_names:
        return None
    names = {canonicalize_name(name) for name in providers().get(top, [top])}
    if names & allowed:
        return None
    if ONLY_IN_USAGE in names:
        return f"{top} is for examples only; import it in the _usage file"
    return f"{top} is not declared; add it to [project.dependencies] or leave it"


def _own_fault(tree: Tree, name: str) -> str | None:
    path = name.replace(".", "/") + ".py"
    if path not in tree.files:
        return f"there is no {path}; correct the import"
    if path.endswith(("_usage.py", "_naive.py")):
        return f"{path} is not for use; import the pattern's own module"
    return None


def _form_fault(node: ast.AST) -> str | None:
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return "a relative import breaks in the reader's tree; write from snippets."
        if any(alias.name == "*" for alias in node.names):
            return "a star import hides what is used; name it"
    return None


def _hidden_fault(node: ast.AST, path: str) -> str | None:
    if isinstance(node, ast.Name) and node.id in HIDDEN_IMPORTS:
        return f"{node.id} runs what nobody sees; import it by name"
    teaches = not path.endswith(("_usage.py", "_naive.py"))
    names: list[str] = []
    if isinstance(node, ast.Attribute):
        names = [ast.unparse(node)]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names if teaches else ():
        if name in ENVIRONMENT:
            return f"{name} is not a snippet's to read; make it a parameter"
    return None


def _own_classes(module: ast.Module) -> set[str]:
    """Return the classes of the snippets that a module defines or imports."""
    found = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OWN):
            names = {alias.asname or alias.name for alias in node.names}
            found |= {name for name in names if name.strip("_")[:1].isupper()}
    return found


def _deeds(path: str, statement: ast.stmt, values: set[str]) -> Iterator[Problem]:
    """Yield what a statement at the top of a module does beyond declaring."""
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom():
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Pass():
            return
        case ast.ClassDef(body=body):
            for inner in body:
                if not isinstance(inner, ast.Assign | ast.AnnAssign):
                    yield from _deeds(path, inner, values)
            return
        case ast.If(test=test, orelse=[]) if _is_guard(test, path):
            return
        case ast.Assign() | ast.AnnAssign():
            if not path.endswith(("_naive.py", "_usage.py")):
                yield from _calls(path, statement, values)
            return
        case _:
            words = ast.unparse(statement).partition("\n")[0][:40]
            message = f"{words!r} runs at import; move it into a function"
            yield Problem(path, statement.lineno, message)


def _is_guard(test: ast.expr, path: str) -> bool:
    words = ast.unparse(test)
    if words == "__name__ == '__main__'":
        return path.endswith("_usage.py")
    return words in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _is_annotated(node: ast.AST) -> bool:
    """Whether a node is a type with what a library is told of it."""
    return isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(
        "Annotated"
    )


def _calls(
    path: str, statement: ast.Assign | ast.AnnAssign, values: set[str]
) -> Iterator[Problem]:
    waiting: list[ast.AST] = [statement.value] if statement.value else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Lambda) or _is_annotated(node):
            continue
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            if name not in values and not SQL_FUNCTION.fullmatch(called):
                message = f"{name}() runs at import; call it in a function"
                yield Problem(path, node.lineno, message)
        waiting.extend(ast.iter_child_nodes(node))
