"""Reading mkdocs.yml as MkDocs does, without running what it does not need."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import yaml

from catalogue import plain_yaml
from catalogue.errors import CatalogueError

SITE = "mkdocs.yml"
BUILT_IN = ("toc", "tables", "fenced_code")
"""The extensions that MkDocs always loads."""
INCLUDER = "pymdownx.snippets"


class _Loader(yaml.CSafeLoader):
    """The safe loader, and the two tags that a site's configuration may use."""


def _named_object(loader: yaml.CSafeLoader, name: str, node: yaml.Node) -> object:
    del loader  # names are looked up among the installed packages
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise yaml.constructor.ConstructorError(
            None, None, f"there is no {name}", node.start_mark
        ) from error


def _environment(loader: yaml.CSafeLoader, node: yaml.Node) -> object:
    """Return the last alternative: the guard judges the tree, not the environment."""
    if isinstance(node, yaml.SequenceNode):
        values: list[object] = loader.construct_sequence(node)
        return values[-1] if values else None
    return None


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", _named_object)
_Loader.add_constructor("!ENV", _environment)


@cache
def read_configuration(text: str) -> dict[str, Any]:
    """Return the configuration; a `CatalogueError` names the line that has no sense."""
    try:
        loader = _Loader(text)
        data = loader.get_single_data()
        loader.dispose()
    except yaml.YAMLError as error:
        line, problem = plain_yaml.fault(error)
        raise CatalogueError(f"{SITE}:{line}: {problem}") from error
    if not isinstance(data, dict):
        raise CatalogueError(f"{SITE}:1: the site's configuration is missing")
    return data


def extensions(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the Markdown extensions of the site in order, each with its options."""
    listed: list[str | dict[str, Any]] | None = configuration.get("markdown_extensions")
    found: dict[str, dict[str, Any]] = {name: {} for name in BUILT_IN}
    for entry in listed or ():
        named = {entry: {}} if isinstance(entry, str) else entry
        found.update({name: options or {} for name, options in named.items()})
    return found
