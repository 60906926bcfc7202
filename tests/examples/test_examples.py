"""Every example runs, and prints exactly what is recorded beneath its prints.

`--update-examples` writes what they print instead.
"""

from __future__ import annotations

from difflib import unified_diff
from typing import TYPE_CHECKING

import pytest

from catalogue.examples import paths, recorded
from catalogue.patterns import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "path", paths(), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_the_example_prints_what_is_recorded(
    path: Path, pytestconfig: pytest.Config
) -> None:
    text = path.read_bytes().decode("utf-8")
    printed = recorded(path)
    if pytestconfig.getoption("--update-examples"):
        path.write_bytes(printed.encode("utf-8"))
        text = printed
    difference = unified_diff(text.split("\n"), printed.split("\n"), lineterm="", n=1)
    assert text == printed, "\n".join(["run make fix:", *difference])
