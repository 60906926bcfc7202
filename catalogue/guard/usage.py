"""Kind 3: an example that is never run, or whose output says nothing."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from catalogue import sources
from catalogue.examples import OUTPUT
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

GUARD = "__name__ == '__main__'"
ENTRY = 'end it with `if __name__ == "__main__":` and a call of main()'


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each usage module which does not run and show what it printed.

    What its outputs should be, only running it tells: that is for tests/examples. Where
    nothing is recorded, what looks like an output is a claim that nobody compares.
    """
    for path in [*tree.below("snippets", ".py"), *tree.below("tests", ".py")]:
        yield from _idle_outputs(tree, path)
    for path in tree.below("snippets", "_usage.py"):
        module = tree.module(path)
        if module is None:
            continue
        if not _calls_main(module):
            yield Problem(path, 1, f"this example never runs; {ENTRY}")
        lines = tree.text(path).splitlines()
        if not any(line.lstrip().startswith(OUTPUT) for line in lines):
            message = "this example shows no output; print, then run make fix"
            yield Problem(path, 1, message)
        for node in tree.nodes(path):
            if isinstance(node, ast.Assert):
                message = "an assert in an example; print, and let a test assert"
                yield Problem(path, node.lineno, message)
            elif isinstance(node, ast.Call) and _is_sleep(node):
                message = "an example must not sleep; wait for an event"
                yield Problem(path, node.lineno, message)


def _idle_outputs(tree: Tree, path: str) -> Iterator[Problem]:
    for comment in tree.comments(path) if OUTPUT in tree.text(path) else ():
        if not re.match(rf"{OUTPUT}( |$)", comment.text):
            continue
        if not path.endswith("_usage.py"):
            message = "an output that no print gave; only an example records outputs"
            yield Problem(path, comment.line, message)
        elif not comment.alone:
            message = "an output beside code is not compared; run make fix, and drop it"
            yield Problem(path, comment.line, message)


def _calls_main(module: ast.Module) -> bool:
    last = module.body[-1] if module.body else None
    if not isinstance(last, ast.If) or ast.unparse(last.test) != GUARD:
        return False
    calls = [ast.unparse(node) for node in ast.walk(last) if isinstance(node, ast.Call)]
    defined = {one.name for one in sources.functions(module.body)}
    return "main" in defined and "main()" in calls


def _is_sleep(node: ast.Call) -> bool:
    """Whether a call sleeps for more than no time."""
    called = ast.unparse(node.func).rpartition(".")[2]
    return called == "sleep" and [ast.unparse(one) for one in node.args] != ["0"]
