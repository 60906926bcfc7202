"""A comparison that says more than ran, and a score typed by hand, are named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from catalogue import record
from catalogue.patterns import find
from tests.support.small_tree import INDEX, MATRIX, TEST

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

PROOF = f"{TEST}::test_a_loop_is_refused"


def note(small: SmallTree, *, passed: list[str], failed: list[str]) -> None:
    """Write a record of today's bytes."""
    run = record.Run(
        passed=passed,
        failed=failed,
        costs=[],
        breakages=[],
        differences=[],
        versions={},
        commit="0000000",
        date="2026-11-22T10:00:00+00:00",
    )
    pattern = find("telephony/call_forwarding", small.root)
    record.save(small.root, record.merge(record.Record(), pattern, {"": run}))


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        (PROOF, f"{TEST}::test_ring", "- tests/telephony", "is no test of telephony"),
        (PROOF, "tests/a.py::test_ring", "- tests/a.py", "is no test of telephony"),
        (
            "pattern: telephony/call_forwarding",
            "pattern: telephony/ring",
            "pattern: tel",
            "no pattern",
        ),
    ],
)
def test_a_row_that_names_what_is_not_there_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    small.replace(MATRIX, old, new)
    small.names(MATRIX, at, reason)


def test_a_proof_that_failed_is_named(small: SmallTree) -> None:
    note(small, passed=[PROOF], failed=[])
    assert small.problems() == []
    note(small, passed=[], failed=[PROOF])
    small.names(MATRIX, f"- {TEST}", "did not run or did not pass")


def test_a_proof_that_did_not_run_is_named(small: SmallTree) -> None:
    note(small, passed=[f"{TEST}::test_the_naive_version_rings_for_ever"], failed=[])
    small.names(MATRIX, f"- {TEST}", "did not run or did not pass")


def test_an_unreadable_record_is_named(small: SmallTree) -> None:
    small.write("build/verification.json", "{")
    small.names("build/verification.json", "{", "the record cannot be read")


def test_a_missing_row_is_named(small: SmallTree) -> None:
    entries = small.read(MATRIX).partition("\nentries:\n")
    second = entries[2].index("\n- id:")
    third = entries[2].index("\n- id:", second + 1)
    small.write(
        MATRIX, "".join((*entries[:2], entries[2][:second], entries[2][third:]))
    )
    assert "entries of the original are missing" in "".join(
        str(one) for one in small.problems()
    )


@pytest.mark.parametrize(
    "words",
    [
        *("93 %", "It scores 82 of 88.", "12/30", "80 per cent", "7 out of 9"),
        *("7 out\nof 9", "**82** of 88", "[82](#a) of 88", "80 per\ncent"),
    ],
)
@pytest.mark.parametrize("page", ["docs/compare/index.md", INDEX])
def test_a_score_typed_by_hand_is_named(
    small: SmallTree, page: str, words: str
) -> None:
    small.write(page, f"---\ntitle: Compare\n---\n\nRead it.\n\nWell: {words}\n")
    small.names(page, "Well:", "is typed; include the computed one")


def test_a_score_in_the_front_matter_is_named(small: SmallTree) -> None:
    page = "docs/compare/index.md"
    small.write(page, "---\ntitle: Compare\ndescription: Ours has 93 %.\n---\n\nX.\n")
    assert "the score '93 %' is typed" in "".join(map(str, small.problems()))


@pytest.mark.parametrize("path", ["notebooks/01_start.ipynb"])
def test_a_notebook_with_a_fault_is_named(small: SmallTree, path: str) -> None:
    small.write(path, "{")
    assert [one for one in small.problems() if one.path == path]


def test_a_notebook_that_no_page_shows_is_named(small: SmallTree) -> None:
    path = "notebooks/01_start.ipynb"
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Start"}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    small.write(path, json.dumps(notebook))
    small.names(path, "{", "no page shows it")
