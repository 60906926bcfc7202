"""Kinds 10 and 11: a version in prose that is not in use, a bound nobody tries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import Version

from catalogue.guard.commands import Continuous
from catalogue.guard.configuration import PROJECT
from catalogue.guard.docstrings import told
from catalogue.guard.tree import PINS, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.specifiers import SpecifierSet

    from catalogue.guard.page import Page
    from catalogue.guard.tree import Tree

LOWEST = "test-lowest"
NUMBER = r"(?P<number>\d+(?:\.\d+)*)(?![\d-])"
BETWEEN = (
    r"(?:['\u2019]s)?(?:\s+(?:version\s+)?(?:v\.?\s*)?|\s*\((?=\d+\.)"
    r"|[\s,(]*(?:version\s+|==\s*|(?P<bound>[≥~]|[~>]=)\s*))"
)
"""What may stand between a name and its version: a bound means the lowest one."""
SERVERS = {"postgres": "PostgreSQL", "redis": "Redis", "rabbitmq": "RabbitMQ"}
"""The servers of the workflow, by the name of their image."""
CALLED = {"redis": "redis-py", "mkdocs-material": "Material for MkDocs"}
"""What prose calls a distribution, where that is not its name."""
WORKFLOWS = ".github/workflows"


@dataclass(frozen=True)
class Named:
    """Something that prose may name with a version, and the versions in use."""

    versions: list[str]
    lowest: str = ""
    declared: bool = True
    """Whether even a whole number behind the name is meant as a version."""


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each version that is named and not used, each bound that is not tried."""
    yield from _bounds(tree)
    yield from _lowest_job(tree)
    used = dict(_used(tree))
    longest_first = sorted(used, key=len, reverse=True)
    names = "|".join(re.escape(name).replace(r"\-", "[- ]") for name in longest_first)
    form = re.compile(rf"(?i)(?<![\w-])(?P<name>{names}){BETWEEN}{NUMBER}")
    for page in [*tree.pages, *tree.notes, *told(tree)]:
        yield from _named(page, form, used)


def _used(tree: Tree) -> Iterator[tuple[str, Named]]:
    """Yield each name in lower case, with hyphens, and what is in use of it."""
    declared = tree.requirements(*tree.extras)
    for name, version in tree.pins.items():
        called = CALLED.get(name, name).lower().replace(" ", "-")
        lowest = _lowest(declared[name].specifier) if name in declared else None
        yield called, Named([str(version)], str(lowest or ""), name in declared)
    for image, name in SERVERS.items():
        form = rf"image: {image}:(\d+(?:\.\d+)*)"
        found = re.findall(form, _workflows(tree))
        if found:
            yield from ((one, Named(found)) for one in {image, name.lower()})
    pythons = _pythons(tree)
    yield "python", Named(pythons, pythons[0] if pythons else "")


def _pythons(tree: Tree) -> list[str]:
    """Return the versions of Python that the workflows run, the lowest first."""
    lines = "".join(re.findall(r"python.*:.*", _workflows(tree)))
    return sorted(set(re.findall(r"\b3\.\d+\b", lines)), key=Version)


def _workflows(tree: Tree) -> str:
    return "\n".join(tree.text(path) for path in tree.below(WORKFLOWS, ""))


def _named(
    page: Page, form: re.Pattern[str], used: dict[str, Named]
) -> Iterator[Problem]:
    for text in page.said:
        for found in form.finditer(text):
            number = found["number"]
            named = used[found["name"].lower().replace(" ", "-")]
            is_version = named.declared or "." in number
            versions = (
                [named.lowest] if found["bound"] and named.lowest else named.versions
            )
            if is_version and not any(_is_part(number, one) for one in versions):
                words = " ".join(found.group().split())
                message = f"{words}: in use is {', '.join(versions)}; say that"
                yield Problem(page.path, page.place(found), message)


def _is_part(number: str, version: str) -> bool:
    """Whether `3.1` is said of `3.1.4`, or `7.0` of an image named `7`."""
    mine, theirs = number.split("."), version.split(".")
    length = min(len(mine), len(theirs))
    return mine[:length] == theirs[:length]


def _bounds(tree: Tree) -> Iterator[Problem]:
    for name, requirement in tree.requirements(*tree.extras).items():
        line = tree.line_of(PROJECT, f'"{requirement.name}')
        pinned = tree.pins.get(name)
        if pinned is None:
            message = f"{requirement.name} is not in {PINS}; run make lock"
            yield Problem(PROJECT, line, message)
            continue
        lowest = _lowest(requirement.specifier)
        if lowest is None:
            message = f"{requirement.name} has no lowest version; write >= and the one"
            yield Problem(PROJECT, line, message)
        elif lowest > pinned or not requirement.specifier.contains(pinned):
            message = f"{requirement} is not {pinned}, which {PINS} pins; correct it"
            yield Problem(PROJECT, line, message)
    lowest = _lowest(tree.pythons)
    if lowest is None:
        yield Problem(PROJECT, 1, "requires-python is missing; declare the lowest")
    elif str(lowest) not in _pythons(tree):
        message = f"no job runs Python {lowest}, the lowest declared; let one run it"
        yield Problem(PROJECT, tree.line_of(PROJECT, "requires-python"), message)


def _lowest(specifier: SpecifierSet) -> Version | None:
    bounds = [
        Version(one.version.removesuffix(".*"))
        for one in specifier
        if one.operator in {">=", "==", "~="}
    ]
    return max(bounds, default=None)


def _lowest_job(tree: Tree) -> Iterator[Problem]:
    if not Continuous(tree).runs(f"make {LOWEST}"):
        path = next(iter(tree.below(WORKFLOWS, "")), f"{WORKFLOWS}/ci.yml")
        message = f"no job tries the lowest declared versions; run make {LOWEST}"
        yield Problem(path, 1, message)
    elif not Continuous(tree).runs("--resolution lowest-direct"):
        line = tree.line_of("Makefile", f"{LOWEST}:")
        message = f"{LOWEST} does not resolve with --resolution lowest-direct; let it"
        yield Problem("Makefile", line, message)
