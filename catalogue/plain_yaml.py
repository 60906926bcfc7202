"""Reading YAML with libyaml, since most checks read some and PyYAML's own is slow."""

from __future__ import annotations

from typing import Any

import yaml
from yaml import CSafeLoader

DEEPEST = 100
"""Levels of nesting; some thousands would overflow the stack of libyaml's composer."""


def read(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the one document in `text` as nodes and, safely constructed, as values.

    Raises `yaml.YAMLError` for what is no YAML and for what YAML lets pass: nesting
    beyond `DEEPEST`, an alias, a key that is given twice.
    """
    _refuse_depth(text)
    loader = CSafeLoader(text)
    try:
        node = loader.get_single_node()
        _refuse_repetitions(node)
        return node, None if node is None else loader.construct_document(node)
    except ValueError as error:  # of a date such as 2026-02-30
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def fault(error: yaml.YAMLError) -> tuple[int, str]:
    """Return the line, from 1, at which a text is no YAML, and why."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return error.problem_mark.line + 1, str(error.problem)
    return 1, str(error).partition("\n")[0]


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
