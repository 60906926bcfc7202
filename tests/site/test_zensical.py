"""The same tree builds with the site generator that succeeds the present one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from catalogue.patterns import ROOT
from tests.site import built
from tests.support.trees import copy_tree, run_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with what was rendered into it, built."""
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    shutil.copytree(ROOT / "build/fragments", tree / "build/fragments")
    shutil.copytree(ROOT / "docs/data", tree / "docs/data", dirs_exist_ok=True)
    shutil.copy(ROOT / "build/nav.yml", tree / "build/nav.yml")
    run = run_in(tree, "zensical", "build", "--clean", "--strict")
    assert run.returncode == 0, run.stdout + run.stderr
    return tree


def test_no_page_is_missing(tree: Path) -> None:
    assert built.page_problems(tree, tree / "build/site") == []


def test_no_page_has_lost_its_code(tree: Path) -> None:
    assert built.code_problems(tree, tree / "build/site") == []


def test_a_page_that_loses_its_code_is_named(tree: Path, tmp_path: Path) -> None:
    site = tree / "build/site"
    page = next((site / "patterns").glob("*/*/index.html"))
    path = page.relative_to(site).as_posix()
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(page.read_text("utf-8").replace("<pre", "<div"))
    found = built.code_problems(tree, tmp_path)
    assert any(f"{path} has 0 blocks of code, not " in problem for problem in found)
