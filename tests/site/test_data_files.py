"""The reference of the data files names exactly the fields that the files have."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.site import built

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BY_NAME = {"files", "versions", "counts"}  # keyed by paths, libraries, units
ANY = (
    (re.compile(r"^(patterns\.runs)\.[^.]*"), r"\1.…"),
    (re.compile(r"^(scores)\.(?:claimed|template|accent|ours)\b"), r"\1.…"),
    (re.compile(r"^(systems|entries|entries\.claim)\.(?:template|accent)\b"), r"\1.…"),
)
ONLY_ANY = {"patterns.runs.…", "systems.…"}  # said with the field that holds them


def fields(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted name of every field, with … for the names that vary."""
    if isinstance(value, list):
        for one in value:
            yield from fields(one, path)
    elif isinstance(value, dict) and path.rpartition(".")[2] not in BY_NAME:
        for key, inner in value.items():
            name = f"{path}.{key}" if path else key
            for pattern, general in ANY:
                name = pattern.sub(general, name)
            yield name
            yield from fields(inner, name)


def documented(site: Path, file: str) -> set[str]:
    """Return the names in the first column of the table below the file's heading."""
    path = "reference/data/index.html"
    page = built.Page(path, (site / path).read_text("utf-8"))
    heading = page.soup.find("h2", string=re.compile(re.escape(file)))
    heading = heading or page.soup.find("h2", id=file.replace(".", ""))
    assert heading
    table = heading.find_next("table")
    assert table
    return {row.get_text() for row in table.select("tbody td:first-child")}


@pytest.mark.parametrize("file", ["index.json", "matrix.json"])
def test_every_field_is_documented_and_no_other(file: str, site: Path) -> None:
    data = json.loads((site / "data" / file).read_text("utf-8"))
    assert documented(site, file) == set(fields(data)) - ONLY_ANY


def test_a_new_field_is_noticed(site: Path) -> None:
    data = json.loads((site / "data/index.json").read_text("utf-8"))
    data["patterns"][0]["colour"] = "green"
    assert "patterns.colour" in set(fields(data)) - documented(site, "index.json")


@pytest.mark.parametrize("file", ["index.json", "matrix.json"])
def test_the_version_is_the_documented_one(file: str, site: Path) -> None:
    data = json.loads((site / "data" / file).read_text("utf-8"))
    assert data["version"] == 1
