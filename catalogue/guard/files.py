"""A file that no other check can judge: one that they would not find or not read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

PUBLISHED = re.compile(r"docs/(.+/)?[^/]+\.(md|mmd|css|js|svg)|docs/matrix\.yaml")
"""What the folder of the pages may hold: the site publishes all that stands there."""
OVERRIDING = re.compile(
    r"(.*/)?(\.?pytest\.(ini|toml)|tox\.ini|setup\.cfg|\.?mypy\.ini|\.?ruff\.toml)"
    r"|.+/pyproject\.toml"
)
"""Configuration that pytest, mypy or ruff prefers to that of pyproject.toml."""


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each link, each file that is no text, and each that nobody looks into."""
    for path in tree.files:
        if (tree.root / path).is_symlink():
            yield Problem(path, 1, "a link to another place; make it a file")
        elif OVERRIDING.fullmatch(path):
            message = "it overrides pyproject.toml; say it there, where it is checked"
            yield Problem(path, 1, message)
        elif path.rpartition("/")[2].startswith("."):
            continue  # an editor's or a system's, which the site leaves out
        elif _is_unreadable(tree, path):
            yield Problem(path, 1, "not text in UTF-8; save it as such")
        elif path.startswith("docs/") and not PUBLISHED.fullmatch(path):
            message = "not a page named .md, nor a style, script or drawing of the site"
            yield Problem(path, 1, f"{message}; move it out of docs/")


def _is_unreadable(tree: Tree, path: str) -> bool:
    """Whether the file holds something, and no text; an empty file is no fault."""
    text = tree.text(path)
    return "\0" in text or (not text and (tree.root / path).stat().st_size > 0)
