"""Kind 6: a file of a pattern that is missing, that no page shows or no test runs."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from catalogue import sources
from catalogue.errors import CatalogueError
from catalogue.guard.index import ABOUT_THE_CATALOGUE
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree
    from catalogue.patterns import Pattern

SAY_IT = "assert it, then call proof.breaks(action, outcome), which its page shows"


def check(tree: Tree) -> Iterator[Problem]:
    """Yield what is missing of each pattern, and what belongs to none."""
    owned: set[str] = set()
    for pattern in tree.patterns:
        owned.update(pattern.modules, pattern.tests)
        missing = list(_missing(tree, pattern))
        yield from missing
        if not missing:
            yield from _shown(tree, pattern)
            yield from _tested(tree, pattern)
            yield from _composed(tree, pattern)
    for path in tree.below("snippets", ""):
        if path not in owned:
            message = "belongs to no pattern; move it to snippets/<category>/<pattern>"
            yield Problem(path, 1, message)
    for path in tree.below("tests", ".py"):
        is_test = path.rpartition("/")[2].startswith("test_")
        if is_test and path not in owned and not path.startswith(ABOUT_THE_CATALOGUE):
            message = (
                "make test never runs this, since it belongs to no pattern; "
                "name it tests/<category>/test_<pattern>__<topic>.py"
            )
            yield Problem(path, 1, message)


def _missing(tree: Tree, pattern: Pattern) -> Iterator[Problem]:
    present = next((p for p in (pattern.page, *pattern.modules) if p in tree.files), "")
    for path in (
        pattern.page,
        pattern.diagram,
        pattern.snippet,
        pattern.role("usage"),
        pattern.role("naive"),
        pattern.test,
    ):
        if path not in tree.files:
            yield Problem(present, 1, f"{pattern.id} has no {path}; write it")


def _shown(tree: Tree, pattern: Pattern) -> Iterator[Problem]:
    page = tree.page(pattern.page)
    shown = {include.path for include in page.in_code if include.section is None}
    for path in (*pattern.modules, pattern.test):
        if path in tree.files and path not in shown:
            message = f"{pattern.page} does not show this file; include it there"
            yield Problem(path, 1, message)


def _tested(tree: Tree, pattern: Pattern) -> Iterator[Problem]:
    imported: set[str] = set()
    for path in pattern.tests:
        module = tree.module(path)
        if module is None:
            continue
        imported.update(sources.imports(tree.nodes(path)))
        if not sources.tests(module):
            yield Problem(path, 1, "there is no test in this file; write one")
    for path in (pattern.snippet, pattern.role("naive"), pattern.role("wiring")):
        name = path.removesuffix(".py").replace("/", ".")
        if path in tree.files and name not in imported:
            message = f"no test of {pattern.id} imports {path}; test it"
            yield Problem(pattern.test, 1, message)
    nodes = [node for path in pattern.tests for node in tree.nodes(path)]
    if not any(
        isinstance(one, ast.Attribute) and one.attr == "breaks" for one in nodes
    ):
        message = f"no test says how the naive version breaks; {SAY_IT}"
        yield Problem(pattern.test, 1, message)


def _composed(tree: Tree, pattern: Pattern) -> Iterator[Problem]:
    """Check that the tests named in the front matter run both patterns."""
    try:
        compositions = pattern.front_matter.composes_with
    except CatalogueError:
        return  # the shape of the page is another check's matter
    known = {other.id: other for other in tree.patterns}
    for composition in compositions:
        path, _, name = composition.test.partition("::")
        line = tree.line_of(pattern.page, composition.test)
        module = tree.module(path) if path in tree.files else None
        other = known.get(composition.pattern)
        if other is None:
            message = f"there is no pattern {composition.pattern}; correct the id"
            yield Problem(pattern.page, line, message)
        elif module is None or name not in sources.tests(module):
            message = f"there is no test {composition.test}; correct the name"
            yield Problem(pattern.page, line, message)
        elif not {pattern.module, other.module} <= {*sources.imports(tree.nodes(path))}:
            message = f"{path} does not import both patterns; name a test which does"
            yield Problem(pattern.page, line, message)
