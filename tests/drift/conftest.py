"""The small tree that the tests of the guard change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import SmallTree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def small(tmp_path: Path) -> SmallTree:
    """A catalogue of one pattern, without a fault."""
    return SmallTree.at(tmp_path)
