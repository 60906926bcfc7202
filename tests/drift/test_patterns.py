"""Patterns are found from paths, and what their pages say is read strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from catalogue.errors import CatalogueError
from catalogue.patterns import discover, find, read_front_matter

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "docs/patterns/calls/call-queue.md"
COPIED = ("call_queue", "line", "tone")
FRONT_MATTER = """\
---
title: Call queue
description: Callers wait in the order in which they rang.
tags: [calls]
maturity: new
symptoms:
  - Callers who rang first are answered last.
composes_with:
  - {pattern: calls/voicemail, test: "tests/calls/test_all.py::test_both"}
---

Text.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a tree with one page and one snippet."""
    (tmp_path / PAGE).parent.mkdir(parents=True)
    (tmp_path / PAGE).write_text(FRONT_MATTER)
    (tmp_path / "snippets/calls").mkdir(parents=True)
    (tmp_path / "snippets/calls/call_queue.py").write_text("")
    return tmp_path


def test_a_pattern_is_found_from_its_page_or_from_its_snippet(tree: Path) -> None:
    (tree / "snippets/calls/voicemail.py").write_text("")
    (tree / "docs/patterns/calls/do-not-disturb.md").write_text("")
    (tree / "docs/patterns/calls/index.md").write_text("")
    found = [pattern.id for pattern in discover(tree)]
    assert found == ["calls/call_queue", "calls/do_not_disturb", "calls/voicemail"]


def test_the_modules_beside_a_snippet_are_no_patterns_of_their_own(tree: Path) -> None:
    for role in ("usage", "naive", "wiring"):
        (tree / f"snippets/calls/call_queue_{role}.py").write_text("")
    assert [pattern.id for pattern in discover(tree)] == ["calls/call_queue"]


def test_all_paths_follow_from_the_id(tree: Path) -> None:
    pattern = find("calls/call_queue", tree)
    assert pattern.page == PAGE
    assert pattern.snippet == "snippets/calls/call_queue.py"
    assert pattern.role("naive") == "snippets/calls/call_queue_naive.py"
    assert pattern.test == "tests/calls/test_call_queue.py"
    assert pattern.url == "patterns/calls/call-queue/"


def test_imported_snippets_travel_with_a_pattern_at_any_distance(tree: Path) -> None:
    folder = tree / "snippets/calls"
    (folder / "call_queue.py").write_text("from snippets.calls.line import Line\n")
    (folder / "line.py").write_text("import snippets.calls.tone\n")
    (folder / "tone.py").write_text("from snippets.calls import call_queue\n")
    assert find("calls/call_queue", tree).companions == [
        "snippets/calls/line.py",
        "snippets/calls/tone.py",
    ]


def test_what_only_the_usage_imports_is_told_apart(tree: Path) -> None:
    folder = tree / "snippets/calls"
    (folder / "call_queue.py").write_text("from snippets.calls.line import Line\n")
    usage = "from snippets.calls.call_queue import Queue\nimport snippets.calls.bell\n"
    (folder / "call_queue_usage.py").write_text(usage)
    (folder / "bell.py").write_text("from snippets.calls.line import Line\n")
    (folder / "line.py").write_text("import snippets.calls.tone\n")
    (folder / "tone.py").write_text("")
    pattern = find("calls/call_queue", tree)
    assert pattern.copied == [f"snippets/calls/{n}.py" for n in COPIED]
    assert pattern.usage_needs == ["snippets/calls/bell.py"]


def test_the_front_matter_is_typed(tree: Path) -> None:
    page = find("calls/call_queue", tree).front_matter
    assert page.title == "Call queue"
    assert page.composes_with[0].pattern == "calls/voicemail"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("title: Call queue\n", "", 2, "'title': Field required"),
        ("tags: [calls]", "tags: []", 4, "'tags'"),
        ("tags: [calls]", "tags: calls", 4, "'tags'"),
        ("maturity: new", "maturity: fine", 5, "'maturity'"),
        ("maturity: new", "maturity: new\nscore: 10", 6, "'score'"),
        ("calls/voicemail,", "Voicemail,", 9, "'composes_with.0.pattern'"),
        ("test_all.py::test_both", "all of them", 9, "'composes_with.0.test'"),
        ("they rang.", "they rang", 3, "full stop"),
        ("they rang.", "they rang " + "and rang " * 20 + ".", 3, "at most 25 words"),
        ("tags: [calls]", "tags: [calls", 5, "not YAML"),
        ("title: Call queue", "title: !!python/name:os.system", 2, "not YAML"),
        ("---\ntitle", "title", 1, "between two lines of ---"),
        ("---\n\nText.", "\nText.", 1, "between two lines of ---"),
    ],
)
def test_a_fault_in_the_front_matter_names_the_file_the_line_and_the_fault(
    tree: Path, old: str, new: str, line: int, words: str
) -> None:
    changed = FRONT_MATTER.replace(old, new)
    assert changed != FRONT_MATTER
    (tree / PAGE).write_text(changed)
    with pytest.raises(CatalogueError) as caught:
        read_front_matter(tree, PAGE)
    message = str(caught.value)
    assert message.startswith(f"{PAGE}:{line}: "), message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("body", ["- a list\n", "a word\n", ""])
def test_front_matter_that_is_no_mapping_is_refused(tree: Path, body: str) -> None:
    (tree / PAGE).write_text(f"---\n{body}---\n")
    with pytest.raises(CatalogueError, match="must be a mapping"):
        read_front_matter(tree, PAGE)


def test_an_unknown_pattern_is_refused_with_the_known_ones(tree: Path) -> None:
    with pytest.raises(CatalogueError, match=r"the patterns are: calls/call_queue$"):
        find("calls/voicemail", tree)


def test_the_names_of_a_module_are_its_public_classes_and_functions(tree: Path) -> None:
    source = "LIMIT = 3\nclass Queue: ...\nasync def _ring(): ...\ndef wait(): ...\n"
    (tree / "snippets/calls/call_queue.py").write_text(source)
    assert find("calls/call_queue", tree).names == ["Queue", "wait"]


def test_a_module_without_names_to_read_is_refused(tree: Path) -> None:
    pattern = find("calls/call_queue", tree)
    (tree / pattern.snippet).write_text("\nclass Queue\n")
    with pytest.raises(CatalogueError, match=r"^snippets/calls/call_queue\.py:2: not"):
        _ = pattern.names
    (tree / pattern.snippet).unlink()
    with pytest.raises(
        CatalogueError, match=r"^snippets/calls/call_queue.py:1: .* is missing"
    ):
        _ = pattern.names
