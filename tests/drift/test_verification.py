"""The verification record says what passed on exactly today's bytes, no more."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from bs4 import BeautifulSoup

from catalogue import record
from catalogue.__main__ import main
from catalogue.errors import CatalogueError
from catalogue.patterns import ROOT, Pattern, find
from catalogue.render import differences

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Pattern]

PASSES = """
BELL = "tests.support.bell"

def test_extensions_are_three_digits(proof):
    proof.cost("dial", statements=1)
    proof.breaks("Dialling 1", "rings nobody")

def test_extensions_are_numbers():
    pass
"""
ON_A_DATABASE = """
def test_a_tenant_is_stored(database_backend, proof):
    proof.differs("NULL sorts", "first" if database_backend == "sqlite" else "last")
"""
BREAKS_IN_TEARDOWN = """
import pytest

@pytest.fixture
def call():
    yield
    assert False

def test_extensions_ring(call):
    pass
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Give a function that runs the tests of a small tree and returns its pattern."""
    (tmp_path / "snippets/calls").mkdir(parents=True)
    (tmp_path / "tests/calls").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\n"
        'addopts = ["-p", "catalogue.plugin", "--import-mode=importlib"]\n'
    )
    (tmp_path / "snippets/calls/dial.py").write_text(
        "from snippets.calls.number import Number\n"
    )
    (tmp_path / "snippets/calls/number.py").write_text("class Number: ...\n")
    (tmp_path / "tests/support").mkdir()
    (tmp_path / "tests/support/tones.py").write_text("BUSY = 425\n")
    (tmp_path / "tests/support/bell.py").write_text("import tests.support.tones\n")
    (tmp_path / "tests/calls/conftest.py").write_text(
        "from tests.support.tones import BUSY\n"
    )
    (tmp_path / "requirements.txt").write_text("pytest==9\n")

    def run(tests: str, *arguments: str) -> Pattern:
        (tmp_path / "tests/calls/test_dial.py").write_text(tests)
        session(tmp_path, *arguments)
        return find("calls/dial", tmp_path)

    return run


def session(
    root: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest in a tree."""
    return subprocess.run(
        (sys.executable, "-m", "pytest", *arguments),
        cwd=root,
        env={
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **variables,
        },
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_passed_run_is_recorded_with_what_its_tests_had_to_say(run: Run) -> None:
    pattern = run(PASSES)
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    assert known.state == "proven"
    assert known.tests_passed() == {
        "tests/calls/test_dial.py::test_extensions_are_three_digits",
        "tests/calls/test_dial.py::test_extensions_are_numbers",
    }
    assert known.runs[""].costs[0].counts == {"statements": 1}
    assert known.runs[""].breakages[0].outcome == "rings nobody"
    assert set(known.files) == {
        "snippets/calls/dial.py",
        "snippets/calls/number.py",
        "tests/calls/test_dial.py",
        "tests/calls/conftest.py",
        "tests/support/bell.py",
        "tests/support/tones.py",
        "requirements.txt",
    }


@pytest.mark.parametrize(
    "ending",
    [
        "\ndef test_extensions_ring():\n    assert False\n",
        "\nimport pytest\ndef test_extensions_ring():\n    pytest.skip()\n",
        "\nimport pytest\n@pytest.mark.xfail\ndef test_rings():\n    assert False\n",
        BREAKS_IN_TEARDOWN,
    ],
    ids=["fails", "skips", "is expected to fail", "fails in teardown"],
)
def test_one_test_that_did_not_pass_leaves_the_pattern_unverified(
    run: Run, ending: str
) -> None:
    pattern = run(PASSES + ending)
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    assert known.state == "not verified"
    assert len(known.runs[""].failed) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("-k", "numbers"),
        ("tests/calls/test_dial.py::test_extensions_are_numbers",),
        (
            "--maxfail=1",
            "-p",
            "no:randomly",
            "--deselect",
            "tests/calls/test_dial.py::test_extensions_are_numbers",
        ),
        ("--collect-only",),
        ("--no-record",),
    ],
    ids=["by keyword", "by id", "deselected", "only collected", "unrecorded"],
)
def test_a_run_of_some_tests_or_without_a_record_is_not_recorded(
    run: Run, arguments: tuple[str, ...]
) -> None:
    pattern = run(PASSES, *arguments)
    assert record.load(pattern.root).patterns == {}


def test_a_run_that_stopped_early_is_not_recorded(run: Run) -> None:
    pattern = run("def test_a():\n    assert False\n" + PASSES, "--exitfirst")
    assert record.load(pattern.root).patterns == {}


def test_a_file_that_changed_while_its_tests_ran_is_not_recorded(run: Run) -> None:
    change = """
import pathlib
def test_extensions_are_redefined():
    with pathlib.Path("snippets/calls/number.py").open("a") as file:
        file.write("# changed")
"""
    pattern = run(PASSES + change)
    assert record.load(pattern.root).patterns == {}


def test_runs_on_embedded_and_real_backends_merge_into_one_entry(run: Run) -> None:
    pattern = run(ON_A_DATABASE)
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    assert (known.state, known.missing) == (
        "proven on embedded backends only",
        ["postgresql"],
    )
    pattern = run(ON_A_DATABASE, "--backends", "real")
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    assert known.state == "proven"
    behaviours = {name: run.differences[0] for name, run in known.runs.items()}
    assert behaviours["sqlite"].behaviour == "first"
    assert behaviours["postgresql"].behaviour == "last"


def test_a_backend_that_ran_is_not_said_not_to_have_run(run: Run) -> None:
    more = (
        "\ndef test_a_call_waits(database_backend, proof):\n"
        "    if database_backend == 'sqlite':\n"
        "        proof.differs('A second call', 'it waits')\n"
    )
    pattern = run(ON_A_DATABASE + more, "--backends", "all")
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    table = BeautifulSoup(differences(known), "html.parser")
    rows = [[cell.get_text() for cell in row("td")] for row in table("tr")[1:]]
    assert rows == [["not compared", "it waits"], ["last", "first"]]


def test_two_runs_that_end_at_once_are_both_recorded(tmp_path: Path) -> None:
    runs = 8
    add_one = (
        "from pathlib import Path\n"
        "from catalogue import record\n"
        "with record.locked(Path()):\n"
        "    known = record.load(Path())\n"
        "    entry = record.Verification(files={}, runs={})\n"
        "    more = {**known.patterns, f'calls/dial{len(known.patterns)}': entry}\n"
        "    record.save(Path(), known.model_copy(update={'patterns': more}))\n"
    )
    command = (sys.executable, "-c", add_one)
    started = [
        subprocess.Popen(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
        for _ in range(runs)
    ]
    assert [process.wait() for process in started] == [0] * runs
    assert len(record.load(tmp_path).patterns) == runs


def test_a_test_that_fails_on_the_real_backend_alone_takes_the_proof_away(
    run: Run,
) -> None:
    tests = ON_A_DATABASE + "    assert database_backend == 'sqlite'\n"
    run(tests)
    pattern = run(tests, "--backends", "real")
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    assert known.state == "not verified"
    assert known.tests_passed() == set()


def test_a_test_for_one_backend_is_not_collected_for_another(run: Run) -> None:
    narrowed = (
        "import pytest\n@pytest.mark.backends('postgresql')\n"
        "def test_a_connection_is_killed(database_backend):\n"
        "    assert database_backend == 'postgresql'\n"
    )
    pattern = run(ON_A_DATABASE + narrowed)
    pattern = run(ON_A_DATABASE + narrowed, "--backends", "real")
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    assert {name: len(run.passed) for name, run in known.runs.items()} == {
        "sqlite": 1,
        "postgresql": 2,
    }


@pytest.mark.parametrize(
    ("marked", "fixture"),
    [
        ("'postgres'", "database_backend"),
        ("'redis'", "database_backend"),
        ("'sqlite', 'mysql'", "database_backend"),
        ("", "database_backend"),
        ("'postgresql'", "tmp_path"),
    ],
)
def test_a_test_that_its_mark_keeps_from_ever_running_stops_the_run(
    run: Run, marked: str, fixture: str
) -> None:
    never = (
        f"import pytest\n@pytest.mark.backends({marked})\n"
        f"def test_a_connection_is_killed({fixture}): ...\n"
    )
    pattern = run(ON_A_DATABASE + never, "--backends", "all")
    assert record.load(pattern.root).patterns == {}


def test_a_file_of_proof_for_real_backends_alone_belongs_to_the_real_half(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "tests/calls/test_dial__faults.py").write_text(
        "import pytest\n@pytest.mark.backends('postgresql')\n"
        "def test_a_connection_is_killed(database_backend): ...\n"
    )
    pattern = run(ON_A_DATABASE)
    assert record.state_of(record.load(tmp_path), pattern) == (
        "proven on embedded backends only"
    )
    pattern = run(ON_A_DATABASE, "--backends", "real")
    known = record.load(tmp_path).valid(pattern)
    assert known is not None
    assert {name: len(run.passed) for name, run in known.runs.items()} == {
        "sqlite": 1,
        "postgresql": 2,
    }


@pytest.mark.parametrize("arguments", [(), ("--backends", "real")])
def test_a_run_of_one_file_of_proof_of_two_is_not_recorded(
    run: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "tests/calls/test_dial__faults.py").write_text(PASSES)
    run(ON_A_DATABASE, "tests/calls/test_dial.py", *arguments)
    assert record.load(tmp_path).patterns == {}


@pytest.mark.parametrize(
    "path",
    [
        "snippets/calls/dial.py",
        "snippets/calls/number.py",
        "tests/calls/test_dial.py",
        "tests/calls/conftest.py",
        "tests/support/bell.py",
        "tests/support/tones.py",
        "requirements.txt",
    ],
)
def test_a_record_of_other_bytes_counts_as_none(run: Run, path: str) -> None:
    pattern = run(PASSES)
    with (pattern.root / path).open("a") as file:
        file.write("\n")
    assert record.load(pattern.root).valid(pattern) is None
    assert record.state_of(record.load(pattern.root), pattern) == "not verified"


def test_only_what_is_not_proven_on_embedded_backends_is_run_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    root = run(ON_A_DATABASE, "--backends", "real").root
    none = "prove: 1 of 2 patterns of calls have no valid record\n"  # it has no test

    assert main(["prove", "--category", "messages"], root) == 2
    assert capfd.readouterr().err == (
        "there is no category 'messages'; there are: calls\n"
    )
    assert main(["prove", "--category", "calls"], root) == 0
    assert "1 passed" in capfd.readouterr().out
    assert main(["prove", "--category", "calls"], root) == 0
    assert capfd.readouterr().out == none
    (root / "tests/support/tones.py").write_text("BUSY = 426\n")
    assert main(["prove"], root) == 0
    assert "1 passed" in capfd.readouterr().out


def test_what_fails_on_a_real_backend_alone_is_not_run_again_on_the_embedded_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tests = ON_A_DATABASE + "    assert database_backend == 'sqlite'\n"
    run(tests)
    root = run(tests, "--backends", "real").root
    assert main(["prove"], root) == 0
    assert "passed" not in capfd.readouterr().out
    run(ON_A_DATABASE + "    assert database_backend == 'postgresql'\n")
    assert main(["prove"], root) == 1
    assert "1 failed" in capfd.readouterr().out


def test_a_new_run_after_a_change_forgets_the_runs_before_it(run: Run) -> None:
    run(ON_A_DATABASE, "--backends", "all")
    pattern = run(ON_A_DATABASE + "\n")
    known = record.load(pattern.root).valid(pattern)
    assert known is not None
    assert set(known.runs) == {"sqlite"}


def test_a_machine_without_git_records_what_passed(run: Run) -> None:
    root = run(PASSES, "--no-record").root
    (root / "no programs").mkdir()
    assert session(root, PATH=str(root / "no programs")).returncode == 0
    known = record.load(root).patterns["calls/dial"]
    assert (known.state, known.runs[""].commit) == ("proven", "no commit")


def test_a_file_of_no_python_that_no_test_imports_does_not_end_the_run(
    run: Run,
) -> None:
    root = run(PASSES, "--no-record").root
    (root / "snippets/calls/dial_wiring.py").write_text("def :\n")
    assert session(root).returncode == 0
    assert record.load(root).patterns["calls/dial"].passed


@pytest.mark.parametrize(
    ("path", "content"),
    [(record.PATH, b"{"), ("snippets/calls/number.py", b"# \xe9\n")],
)
def test_a_file_that_cannot_be_read_stops_the_run_before_a_test_with_one_line(
    run: Run, path: str, content: bytes
) -> None:
    root = run("import pathlib\ndef test_a():\n    pathlib.Path('ran').touch()\n").root
    (root / "ran").unlink()
    (root / path).write_bytes(content)
    stopped = session(root)
    assert stopped.returncode == pytest.ExitCode.USAGE_ERROR
    assert [line for line in stopped.stderr.splitlines() if line] == [
        line for line in stopped.stderr.splitlines() if f"{path}:1: " in line
    ]
    assert not (root / "ran").exists()
    assert "INTERNALERROR" not in stopped.stdout


@pytest.mark.parametrize(
    "content",
    ["{", '{"version": 2, "patterns": {}}', '{"patterns": {"calls/dial": {}}}'],
    ids=["not JSON", "another version", "a field missing"],
)
def test_an_unreadable_record_says_what_to_do_in_one_line(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / record.PATH).write_text(content)
    with pytest.raises(CatalogueError) as caught:
        record.load(tmp_path)
    assert str(caught.value).startswith("build/verification.json:1: ")
    assert "delete it and run make test" in str(caught.value)
    assert "\n" not in str(caught.value)
