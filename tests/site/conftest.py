"""The site as `make site` built it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from catalogue.patterns import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    folder = ROOT / "build/site"
    if not (folder / "index.html").is_file():
        pytest.fail("build/site is missing: run make site", pytrace=False)
    return folder
