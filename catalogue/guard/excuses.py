"""Kind 6: a test that is left out or expected to fail, a checker told to look away."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from catalogue import sources
from catalogue.guard.commands import Continuous
from catalogue.guard.configuration import PROJECT
from catalogue.guard.index import ABOUT_THE_CATALOGUE
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

PLUGIN = "catalogue/plugin.py"
WAYS_OUT = {
    *("SkipTest", "Skipped", "importorskip", "skip", "skipIf", "skipTest"),
    *("skipUnless", "skipif", "expectedFailure", "xfail"),
    *("__test__", "collect_ignore", "collect_ignore_glob", "pytest_plugins"),
    *("_exit", "exitonfirst", "pytest.exit"),
    *("add_marker", "applymarker", "no_type_check"),
}
"""Names by which pytest, unittest and typing leave something out."""
OPTIONS = re.compile(
    r"^(-k|-m|--deselect|--ignore(-glob)?|--lf|--ff|--runxfail|-x|--maxfail)(=.*)?$"
)
SETTINGS = {
    *("addopts", "asyncio_default_fixture_loop_scope", "asyncio_mode"),
    *("empty_parameter_set_mark", "filterwarnings", "minversion", "pythonpath"),
    *("testpaths", "xfail_strict"),
}
"""What pytest may be told; by others it does not find all tests."""
SILENCER = re.compile(
    r"#\s*(type:\s*ignore|noqa|ruff:\s*noqa|flake8:\s*noqa|pragma:\s*no\s*(cover|branch)"
    r"|mypy:|pyright:|pylint:|isort:\s*skip|fmt:\s*(off|skip)|yapf:\s*disable|nosec"
    r"|nbval-|nbval_)",
    re.IGNORECASE,
)
NOTEBOOK = re.compile(r"nbval[-_](skip|ignore|raises)", re.IGNORECASE)
LENIENT = ("allow", "disable", "exclude", "follow", "ignore")
NOT_RUN = "take it away: a test runs and passes, or it is not there"
SEEN = "take it away and mend what it hides"
CHECKER = r"\b(make|pytest|python3?|mypy|ruff)\b|\$\(\w+\)"
IGNORED = re.compile(
    rf"^\t@?-|({CHECKER}).*\|\| *(true\b|:|exit 0\b)"
    r"|^\.IGNORE|\bmake +(-\w*[ik]|--ignore-errors|--keep-going)"
    r"|^(export +)?MAKEFLAGS|^ *paths(-ignore)?:"
    r"|continue-on-error: *true|^[ -]*if: *(false|\$\{\{ *false)|^ *set \+e"
)
"""How a Makefile, a script or a workflow goes on after a failure."""
SEQUENCE = re.compile(rf"({CHECKER})[^'\"#|;]*;(?! *\}})")
PIPE = re.compile(rf"({CHECKER})[^'\"#|;]*\|(?!\|)")
"""What takes the status of the command after it: make and most shells go by that."""


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each mark, option or comment by which something is not checked."""
    for path in (path for path in tree.files if path.endswith(".py")):
        yield from _marks(tree, path)
        yield from _uncollected(tree, path)
        yield from _comments(tree, path)
    for path in tree.below("notebooks", ".ipynb"):
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if NOTEBOOK.search(line):
                yield Problem(path, number, f"a cell left out of the check; {NOT_RUN}")
    for path in ["Makefile", *tree.below(".ci", ""), *tree.below(".github", "")]:
        forms = [IGNORED]
        if path == "Makefile":
            forms.append(SEQUENCE)
        if "pipefail" not in tree.text(path):
            forms.append(PIPE)
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if any(form.search(line) for form in forms):
                yield Problem(path, number, f"a failure here passes; {SEEN}")
    yield from _options(tree)
    yield from _types(tree)
    yield from _recipes(tree)


def _marks(tree: Tree, path: str) -> Iterator[Problem]:
    nodes = tree.nodes(path)
    if not nodes:
        yield Problem(path, 1, "not readable as Python; mend the syntax")
    for node in nodes:
        for name, line in _names(node):
            if name in WAYS_OUT:
                yield Problem(path, line, f"{name} leaves something out; {NOT_RUN}")
    for one in sources.functions(nodes) if path != PLUGIN else ():
        if one.name.startswith("pytest_"):
            message = "a hook can leave tests out; do it in a fixture"
            yield Problem(path, one.lineno, message)


def _uncollected(tree: Tree, path: str) -> Iterator[Problem]:
    """Yield each function called a test that pytest does not find."""
    module = tree.module(path)
    if module is None or not path.startswith("tests/"):
        return
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    collected = [
        *module.body,
        *(node for one in classes if one.name.startswith("Test") for node in one.body),
    ]
    if not path.rpartition("/")[2].startswith("test_"):
        collected = []
    for one in sources.functions(tree.nodes(path)):
        if one.name.startswith("test_") and one not in collected:
            message = (
                f"{one.name} is never collected; put it at the top of a test_ file"
            )
            yield Problem(path, one.lineno, message)


def _names(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names that a node uses, also those it asks `getattr` for."""
    match node:
        case ast.Attribute(value=ast.Name(id="pytest"), attr="exit", lineno=line):
            yield "pytest.exit", line
        case ast.Name(id=name, lineno=line) | ast.Attribute(attr=name, lineno=line):
            yield name, line
        case ast.ImportFrom(names=aliases, lineno=line):
            yield from ((alias.name, line) for alias in aliases)
        case ast.FunctionDef(name=name, lineno=line):
            yield name, line
        case ast.Call(func=ast.Name(id="getattr"), args=arguments, lineno=line):
            for argument in arguments:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value), line
        case _:
            return


def _comments(tree: Tree, path: str) -> Iterator[Problem]:
    comments = tree.comments(path) if SILENCER.search(tree.text(path)) else []
    for comment in comments:
        found = SILENCER.search(comment.text)
        if found:
            words = " ".join(found.group().lstrip("#").split())
            message = f"{words!r} tells a checker to look away; {SEEN}"
            yield Problem(path, comment.line, message)


def _options(tree: Tree) -> Iterator[Problem]:
    options = tree.project.tool.pytest.ini_options
    for name in sorted(options.keys() - SETTINGS):
        message = f"{name} can leave tests out; take it away, or let the guard know it"
        yield Problem(PROJECT, tree.line_of(PROJECT, name), message)
    if options.get("empty_parameter_set_mark") != "fail_at_collect":
        message = (
            "a test without parameters is skipped; set empty_parameter_set_mark = "
        )
        line = tree.line_of(PROJECT, "[tool.pytest")
        yield Problem(PROJECT, line, f'{message}"fail_at_collect"')
    if options.get("testpaths", ["tests"]) != ["tests"]:
        message = 'testpaths leaves tests out of every run; make it ["tests"]'
        yield Problem(PROJECT, tree.line_of(PROJECT, "testpaths"), message)
    added = options.get("addopts", "")
    for word in added if isinstance(added, list) else str(added).split():
        if OPTIONS.fullmatch(word):
            message = f"{word} leaves tests out of every run; {NOT_RUN}"
            yield Problem(PROJECT, tree.line_of(PROJECT, word), message)


def _recipes(tree: Tree) -> Iterator[Problem]:
    """Yield each option of a recipe that leaves out tests of patterns."""
    elsewhere = tuple(f"--ignore={room}" for room in ABOUT_THE_CATALOGUE)
    for words in Continuous(tree).commands:
        for word in words[words.index("pytest") :] if "pytest" in words else ():
            if OPTIONS.fullmatch(word) and not f"{word}/".startswith(elsewhere):
                message = f"{word} leaves tests out; {NOT_RUN}"
                yield Problem("Makefile", tree.line_of("Makefile", word), message)


def _types(tree: Tree) -> Iterator[Problem]:
    mypy = tree.project.tool.mypy
    if not mypy.strict:
        message = "mypy is not strict; set strict = true"
        yield Problem(PROJECT, tree.line_of(PROJECT, "[tool.mypy]"), message)
    for table in (mypy.model_extra or {}, *mypy.overrides):
        for key, value in table.items():
            if value is False or key.startswith(LENIENT):
                message = f"{key} tells mypy to look away; {SEEN}"
                yield Problem(PROJECT, tree.line_of(PROJECT, key), message)
