"""Reading YAML with libyaml, since most checks read some and PyYAML's own is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from yaml import CSafeLoader

from catalogue.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterable

DEEPEST = 100
"""Levels of nesting; some thousands would overflow the stack of libyaml's composer."""


def read(
    text: str, path: str = "", *, before: int = 0, what: str = "not YAML"
) -> tuple[yaml.Node | None, Any]:
    """Return the one document in `text` as nodes and, safely constructed, as values.

    What is no YAML is a `CatalogueError`, and so is what YAML lets pass: nesting beyond
    `DEEPEST`, an alias, a key that is given twice. It says where in `path` the fault
    is, if `before` lines stand before the text, and in which words.
    """
    loader = CSafeLoader(text)
    try:
        _refuse_depth(text)
        node = loader.get_single_node()
        _refuse_repetitions(node)
        return node, None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # that of a date such as 2026-02-30
        line, problem = fault(error)
        message = f"{path}:{line + before}: {what}: {problem}"
        raise CatalogueError(message) from error
    finally:
        loader.dispose()


def fault(error: yaml.YAMLError | ValueError) -> tuple[int, str]:
    """Return the line, from 1, at which a text is no YAML, and why."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return error.problem_mark.line + 1, str(error.problem)
    return 1, str(error).partition("\n")[0]


def line_of(node: yaml.Node | None, location: Iterable[int | str]) -> int:
    """Return the line, from 1, of the deepest thing on the way to `location`."""
    line = node.start_mark.line if node else 0
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == part]
            if not pairs:
                break
            line = pairs[0][0].start_mark.line
            node = pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _refuse_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases are not read; write it out", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            problem = f"it is nested more than {DEEPEST} levels deep"
            raise _refused(problem, event.start_mark)


def _refuse_repetitions(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _refuse_repetitions(one)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                problem = f"the key {name!r} is given twice; keep one"
                raise _refused(problem, key.start_mark)
            seen.add(name)
            _refuse_repetitions(value)


def _refused(problem: str, place: object) -> yaml.MarkedYAMLError:
    line = getattr(place, "line", 0)
    mark = yaml.Mark("", 0, line, 0, None, 0)
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
