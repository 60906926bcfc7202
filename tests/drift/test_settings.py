"""A setting of the site by which drift would pass is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

SITE = "mkdocs.yml"
INCLUDER = 'pymdownx.snippets: {base_path: ["."], check_paths: true}'


@pytest.mark.parametrize(
    "setting",
    [
        '{base_path: ["."]}',
        '{base_path: ["."], check_paths: false}',
        '{base_path: [".", "docs"], check_paths: true}',
        '{base_path: ["."], check_paths: true, url_download: true}',
        '{base_path: ["."], check_paths: true, auto_append: [docs/index.md]}',
        '{base_path: ["."], check_paths: true, restrict_base_path: false}',
    ],
)
def test_an_includer_that_lets_drift_in_is_named(
    small: SmallTree, setting: str
) -> None:
    small.replace(SITE, INCLUDER, f"pymdownx.snippets: {setting}")
    small.names(SITE, "pymdownx.snippets", "is set to")


def test_a_site_without_the_includer_is_named(small: SmallTree) -> None:
    small.replace(SITE, f"  - {INCLUDER}", "")
    problems = [str(one) for one in small.problems()]
    assert f"{SITE}:1: pymdownx.snippets is set to None" in "".join(problems)


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("hooks: [ring.py]", "a hook can change what a page shows"),
        ("copyright: <pre>ring()</pre>", "it is HTML that stands on every page"),
        ("docs_dir: rings", "pages in another folder are not checked"),
        ("theme: {name: material, custom_dir: rings}", "templates belong into"),
        ("markdown_extensions: [pymdownx.rings]", "an extension cannot be loaded"),
        ("markdown_extensions:", "is set to None"),
        ("validation: {links: warn}", "not_found is not validated"),
        ("validation:", "not_found is not validated"),
        ("plugins: [search, macros]", "the plugin macros can change"),
        ("plugins: [{gen-files: {scripts: [ring.py]}}]", "the plugin gen-files can"),
        ("validation: {nav: {}}", "is not validated"),
        ("validation: {links: {not_found: info}}", "not_found is not validated"),
        ("site_name: !ring x", "could not determine a constructor"),
        ("extra: !!python/name:ring.ring", "there is no ring.ring"),
        ("extra: [", "did not find expected node content"),
    ],
)
def test_a_setting_that_loosens_the_build_is_named(
    small: SmallTree, added: str, reason: str
) -> None:
    key = added.partition(":")[0]
    lines = small.read(SITE).split("\n")
    kept = []
    skipping = False
    for line in lines:
        if line and not line[0].isspace():
            skipping = line.startswith(f"{key}:")
        if not skipping:
            kept.append(line)
    small.write(SITE, "\n".join(kept) + f"\n{added}\n")
    assert reason in "".join(str(one) for one in small.problems())


def test_a_setting_from_the_environment_is_read(small: SmallTree) -> None:
    small.write(SITE, small.read(SITE) + "\nremote_name: !ENV RING\n")
    assert small.problems() == []


def test_a_build_that_is_not_strict_is_named(small: SmallTree) -> None:
    recipe = "test: check ## all\n\t@$(BIN)/python -m mkdocs build --strict\n"
    small.replace("Makefile", "test: check ## all\n", recipe)
    assert small.problems() == []
    small.replace("Makefile", " --strict", "")
    small.names("Makefile", "\t@$(BIN)/python -m mkdocs", "without --strict")
