"""Reading YAML with libyaml, since most checks read some and PyYAML's own is slow."""

from __future__ import annotations

from typing import Any

import yaml
from yaml import CSafeLoader

DEEPEST = 100
"""Levels of nesting; some thousands would overflow the stack of libyaml's composer."""


def read(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the one document in `text` as nodes and, safely constructed, as values.

    Raises `yaml.YAMLError` for what is no YAML, and for nesting beyond `DEEPEST`.
    """
    _refuse_depth(text)
    loader = CSafeLoader(text)
    try:
        node = loader.get_single_node()
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
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            line = event.start_mark.line if event.start_mark else 0
            problem = f"it is nested more than {DEEPEST} levels deep"
            place = yaml.Mark("", 0, line, 0, None, 0)
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=place)
