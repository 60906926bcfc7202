"""Every fault gets one clear line on stderr and an exit status that is not zero."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from watchdog.events import FileModifiedEvent

from catalogue import record
from catalogue.__main__ import main
from catalogue.patterns import discover
from catalogue.serve import Changes
from tests.support.small_tree import (
    MATRIX,
    NAIVE,
    PAGE,
    SNIPPET,
    TEST,
    USAGE,
    SmallTree,
)
from tests.support.trees import copy_tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one copy of the tree, for tests that only read."""
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a copy of the tree that the test may change."""
    return copy_tree(tmp_path)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("command", ["check", "render", "list"])
def test_broken_front_matter_is_named_with_file_and_line(
    small: SmallTree, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small.replace(PAGE, "maturity: new", "maturity: perfect")
    assert main([command], small.root) == 1
    line = complaint(capsys)
    assert line.startswith(f"{PAGE}:")
    assert "'maturity'" in line


def test_an_include_that_points_nowhere_is_named(
    small: SmallTree, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f'--8<-- "{NAIVE.replace("naive", "nave")}"'
    small.replace(PAGE, f'--8<-- "{NAIVE}"', nowhere)
    assert main(["check"], small.root) == 1
    place = f"{PAGE}:{small.line(PAGE, nowhere)}: "
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith(place) and "_nave.py" in line for line in said), said


@pytest.mark.parametrize("command", ["check", "render"])
def test_a_matrix_row_with_an_unknown_pattern_is_named(
    small: SmallTree, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small.replace(MATRIX, "telephony/call_forwarding", "telephony/call_fourwarding")
    assert main([command], small.root) == 1
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith(f"{MATRIX}:")
    assert "telephony/call_fourwarding" in line


@pytest.mark.parametrize("command", ["render", "prove", "serve", "list"])
def test_an_unreadable_record_says_what_to_do(
    tree: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "build").mkdir()
    (tree / record.PATH).write_text("{")
    assert main([command], tree) == 1
    assert complaint(capsys) == (
        "build/verification.json:1: the record cannot be read; "
        "delete it and run make test"
    )


COMMANDS = (["check"], ["render"], ["list"], ["show", "telephony/call_forwarding"])
USED = [
    *(PAGE, SNIPPET, USAGE, NAIVE, TEST, MATRIX, PAGE.replace(".md", ".mmd")),
    *("docs/patterns/telephony/index.md", "docs/index.md", "mkdocs.yml"),
    *("pyproject.toml", "requirements.txt", "README.md", "tests/conftest.py"),
    *("notebooks/01_a.ipynb", "tests/telephony/bench_call_forwarding.json"),
    *("build", "build/fragments", record.PATH, "docs", "docs/data", "snippets"),
]


@pytest.mark.parametrize("path", USED)
@pytest.mark.parametrize("content", [None, b"", b"a\0b\n", "é\n".encode("latin-1")])
def test_whatever_a_file_is_a_command_says_it_in_lines_with_their_place(
    small: SmallTree,
    path: str,
    content: bytes | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(small.root / path, content)
    for arguments in COMMANDS:
        status = main(arguments, small.root)
        said = capsys.readouterr().err.splitlines()
        assert all(re.match(r"[\w./-]+:\d+: .", line) for line in said), said
        assert len(said) == status or (said and arguments == ["check"]), said


def spoil(path: Path, content: bytes | None) -> None:
    """Put a folder, or a file with this content, where something else is."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


def test_a_source_that_cannot_be_rendered_does_not_end_the_serving(
    small: SmallTree, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = Changes(small.root)
    fragment = small.root / "build/fragments/telephony/call-forwarding/card.md"
    for path in (PAGE, "requirements.txt"):
        text = small.read(path)
        spoil(small.root / path, None)
        changes.dispatch(FileModifiedEvent(str(small.root / path)))
        changes.render_when_changed()
        assert complaint(capsys).startswith(f"{path}:1: ")
        (small.root / path).rmdir()
        small.write(path, text)
        changes.dispatch(FileModifiedEvent(str(small.root / path)))
        changes.render_when_changed()
        assert capsys.readouterr().err == ""
        fragment.unlink()


def test_a_port_in_use_is_said_before_anything_is_tested(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)], original) == 1
    assert complaint(capsys).startswith(f"port {port} cannot be used")


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http"])
def test_a_port_that_is_none_is_misuse(
    original: Path, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--port", port], original)
    assert caught.value.code == 2
    assert "a port is a number from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["prune"], ["show"], ["list", "--yaml"]])
def test_a_wrong_command_is_misuse(
    original: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments, original)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_an_unknown_pattern_is_misuse(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "caching/cashed"], original) == 2
    assert "there is no pattern 'caching/cashed'" in complaint(capsys)


def test_patterns_are_listed_for_people_and_for_machines(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [pattern.id for pattern in discover(original)]
    assert main(["list"], original) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ids
    assert main(["list", "--json"], original) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in listed] == ids
    assert {entry["state"] for entry in listed} == {"not verified"}


@pytest.mark.parametrize("command", [["list"], ["list", "--json"]])
def test_a_reader_that_leaves_early_is_no_fault(
    original: Path, command: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "catalogue", *command],
        cwd=original,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert run.stderr == ""


def test_a_pattern_is_shown_with_its_files_and_its_proof(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "database/repository"], original) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["url"] == "patterns/database/repository/"
    assert shown["copy"] == [
        f"snippets/database/{name}.py" for name in ("repository", "conflict", "filters")
    ]
    assert shown["verification"] is None
    assert "snippets/database/repository_naive.py" in shown["files"]


def test_publication_refuses_a_pattern_that_is_not_verified(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "--publish"], original) == 1
    assert "not verified: " in complaint(capsys)
    assert main(["render"], original) == 0


def test_rendering_twice_writes_nothing_the_second_time(tree: Path) -> None:
    def written() -> dict[Path, int]:
        folders = (tree / "build", tree / "docs/data")
        files = [path for folder in folders for path in folder.rglob("*")]
        return {path: path.stat().st_mtime_ns for path in files if path.is_file()}

    assert main(["render"], tree) == 0
    first = written()
    stale = tree / "build/fragments/database/gone.md"
    stale.write_text("a pattern that was removed")
    assert main(["render"], tree) == 0
    assert written() == first
