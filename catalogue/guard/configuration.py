"""Reading mkdocs.yml, running only what the guard needs, and pyproject.toml."""

from __future__ import annotations

import importlib
import tomllib
from functools import cache
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from catalogue import plain_yaml
from catalogue.errors import CatalogueError
from catalogue.strict import first_fault

SITE = "mkdocs.yml"
PROJECT = "pyproject.toml"
BUILT_IN = ("toc", "tables", "fenced_code")
"""The extensions that MkDocs always loads."""
INCLUDER = "pymdownx.snippets"
ONE = Field(min_length=1, max_length=1)


class _Site(BaseModel):
    """The form of those settings that the guard looks into."""

    markdown_extensions: list[str | dict[str, dict[str, Any] | None]] | None = None
    plugins: list[str | Annotated[dict[str, Any], ONE]] | dict[str, Any] | None = None
    validation: dict[str, Any] | None = None


class Project(BaseModel):
    """What pyproject.toml declares."""

    dependencies: list[str] = []
    extras: dict[str, list[str]] = Field(
        default_factory=dict, validation_alias="optional-dependencies"
    )
    python: str = Field(default="", validation_alias="requires-python")


class Pytest(BaseModel):
    """What pytest is told."""

    ini_options: dict[str, bool | int | str | list[str]] = {}


class Mypy(BaseModel, extra="allow"):
    """What mypy is told."""

    strict: bool = False
    overrides: list[dict[str, Any]] = []


class Tools(BaseModel):
    """What the tools are told."""

    pytest: Pytest = Pytest()
    mypy: Mypy = Mypy()


class Tables(BaseModel):
    """The tables of pyproject.toml that the guard looks into."""

    project: Project = Project()
    tool: Tools = Tools()


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
    try:
        _Site.model_validate(data)
    except ValidationError as error:
        _, where, what = first_fault(error)
        raise CatalogueError(f"{SITE}:1: {where}: {what}") from error
    return data


def extensions(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the Markdown extensions of the site in order, each with its options."""
    listed: list[str | dict[str, Any]] | None = configuration.get("markdown_extensions")
    found: dict[str, dict[str, Any]] = {name: {} for name in BUILT_IN}
    for entry in listed or ():
        named = {entry: {}} if isinstance(entry, str) else entry
        found.update({name: options or {} for name, options in named.items()})
    return found


def read_project(text: str) -> Tables:
    """Return the tables of pyproject.toml; an unreadable one is a `CatalogueError`."""
    try:
        return Tables.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{PROJECT}:1: it is not TOML: {error}") from error
    except ValidationError as error:
        _, where, what = first_fault(error)
        raise CatalogueError(f"{PROJECT}:1: {where}: {what}") from error
