"""Lighthouse's figures for four kinds of page, as medians of three runs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import pytest

from catalogue.patterns import ROOT
from tests.site.served import serve

if TYPE_CHECKING:
    from pathlib import Path

RESULT = ROOT / "build/lighthouse.json"
RUNS = 3
URLS = {
    "home": "",
    "pattern": "patterns/database/repository/",
    "matrix": "compare/",
    "notebook": "start/first-notebook/",
}
WANTED = {
    "desktop": {
        "performance": 95,
        "accessibility": 95,
        "best-practices": 95,
        "seo": 95,
    },
    "mobile": {"performance": 90, "accessibility": 95, "best-practices": 95, "seo": 95},
}


Measure = Callable[[str, str], dict[str, int]]


@pytest.fixture
def measure(node_modules: Path, chromium: str, flags: list[str]) -> Measure:
    """Run Lighthouse once for an address and a form; its figures are of a hundred."""

    def run(url: str, form: str) -> dict[str, int]:
        command = [
            str(node_modules / ".bin/lighthouse"),
            url,
            "--quiet",
            "--output=json",
            "--no-enable-error-reporting",
            f"--only-categories={','.join(WANTED[form])}",
            f"--chrome-flags={' '.join(['--headless=new', *flags])}",
            *(["--preset=desktop"] if form == "desktop" else []),
        ]
        environment = {**os.environ, "CHROME_PATH": chromium}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        categories = json.loads(done.stdout)["categories"]
        return {
            name: round(100 * category["score"])
            for name, category in categories.items()
        }

    return run


@pytest.mark.parametrize("form", WANTED)
@pytest.mark.parametrize("name", URLS)
def test_the_figures_are_reached(
    name: str, form: str, measure: Measure, address: str
) -> None:
    runs = [measure(address + URLS[name], form) for _ in range(RUNS)]
    figures = {key: median(run[key] for run in runs) for key in runs[0]}
    keep(name, form, figures)
    wanted = WANTED[form]
    assert {key: figures[key] for key in wanted if figures[key] < wanted[key]} == {}, (
        runs
    )


def keep(name: str, form: str, figures: dict[str, float]) -> None:
    """Write the figures beside those of the other pages."""
    known = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    known.setdefault(name, {})[form] = figures
    RESULT.write_text(json.dumps(known, indent=2) + "\n", "utf-8")


def test_a_page_that_falls_short_is_noticed(measure: Measure, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<img src='a.png'><a href=''>x</a>", "utf-8")
    with serve(tmp_path) as address:
        figures = measure(address, "desktop")
    assert figures["accessibility"] < WANTED["desktop"]["accessibility"]
    assert figures["seo"] < WANTED["desktop"]["seo"]
