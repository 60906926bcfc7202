"""Kinds 2 and 5: a setting of the site by which a wrong include or link would pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalogue.guard.commands import Continuous
from catalogue.guard.configuration import INCLUDER, SITE, extensions
from catalogue.guard.tree import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue.guard.tree import Tree

INCLUDING = {"base_path": ["."], "check_paths": True}
"""What the site's includer must be set to: nothing fetched, added or left out."""
FOREIGN = {
    "copyright": "it is HTML that stands on every page",
    "docs_dir": "pages in another folder are not checked",
    "hooks": "a hook can change what a page shows",
}
OVERRIDES = "overrides"
PLUGINS = {"mkdocstrings", "search"}
VALIDATED = {
    "nav": ("omitted_files", "not_found", "absolute_links"),
    "links": ("not_found", "anchors", "absolute_links", "unrecognized_links"),
}


def check(tree: Tree) -> Iterator[Problem]:
    """Yield each setting that loosens the strict build, or changes what it shows."""
    for at, message in _faults(tree):
        yield Problem(SITE, tree.line_of(SITE, at), message)
    for words in Continuous(tree).commands:
        if {"mkdocs", "build"} <= set(words) and "--strict" not in words:
            line = tree.line_of("Makefile", "mkdocs build")
            message = "the site is built without --strict; build it strictly"
            yield Problem("Makefile", line, message)


def _faults(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield the words where a fault stands, and what it is."""
    including = extensions(tree.config).get(INCLUDER)
    if including != INCLUDING:
        yield INCLUDER, f"{INCLUDER} is set to {including}; set it to {INCLUDING}"
    for key, what in FOREIGN.items():
        if key in tree.config:
            yield f"{key}:", f"{what}; remove it"
    theme = tree.config.get("theme")
    if isinstance(theme, dict) and theme.get("custom_dir", OVERRIDES) != OVERRIDES:
        yield "custom_dir:", f"templates belong into {OVERRIDES}; move them there"
    for plugin in tree.config.get("plugins") or ():
        name = plugin if isinstance(plugin, str) else next(iter(plugin))
        if name not in PLUGINS:
            yield name, f"the plugin {name} can change what a page shows; remove it"
    validation = tree.config.get("validation") or {}
    for group, names in VALIDATED.items():
        for name in names:
            settings = validation.get(group)
            if not isinstance(settings, dict) or settings.get(name) != "warn":
                message = f"{group}.{name} is not validated; set it to warn"
                yield f"{group}:", message
