"""Make and CI run again what did not pass on today's bytes, and nothing too early."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from catalogue.patterns import ROOT
from tests.support.redis_servers import free_port

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = """\
#!/bin/sh
echo "$*" >> log
test -z "$EDITED" || echo ring >> "$EDITED"
"""
"""Stands in for the interpreter: notes what is run, and edits a file meanwhile."""
HELPER = "tests/support/bell.py"
SUITE = "-m pytest --quiet tests/drift --ignore=tests/drift/test_six_steps.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The real Makefile in a tree of a few files, already set up."""
    files = {
        **dict.fromkeys(("docs/matrix.yaml", "mkdocs.yml", "pyproject.toml"), ""),
        **dict.fromkeys(("catalogue/record.py", "tests/examples/test_a.py"), ""),
        **dict.fromkeys(("tests/drift/test_a.py", "tests/conftest.py", HELPER), ""),
        **dict.fromkeys(("README.md", "notebooks/01_a.ipynb", "requirements.txt"), ""),
        "catalogue/notebooks/__init__.py": "",
        "snippets/calls/dial.py": "",
        "snippets/gone/__pycache__/dial.cpython-313.pyc": "",
        **dict.fromkeys((".ci/serve", ".github/workflows/ci.yml"), ""),
        ".venv/bin/python": PYTHON,
        ".venv/.ready": "",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / ".venv/bin/python").chmod(0o700)
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def ran(tree: Path, *arguments: str) -> list[str]:
    """Run make, as if by no other make; return what it ran by the interpreter."""
    log = tree / "log"
    log.write_text("")
    command = ["make", "--silent", *arguments]
    subprocess.run(command, cwd=tree, env={"PATH": os.environ["PATH"]}, check=True)
    return log.read_text().splitlines()


def test_what_passed_is_not_run_again(tree: Path) -> None:
    assert ran(tree, "machinery") == [SUITE]
    (tree / "docs/matrix.yaml").touch()
    assert ran(tree, "machinery") == []


@pytest.mark.parametrize("target", ["machinery", "six-steps", "notebooks"])
@pytest.mark.parametrize("change", ["edited", "removed", "renamed"])
def test_a_file_that_changed_is_run_again(tree: Path, target: str, change: str) -> None:
    path = "snippets/calls/dial.py" if target == "notebooks" else HELPER
    first = ran(tree, target)
    assert len(first) == 1
    if change == "edited":
        (tree / path).write_text("BELL = 1\n")
    elif change == "removed":
        (tree / path).unlink()
    else:
        (tree / path).rename(tree / path.replace(".py", "_new.py"))
    assert ran(tree, target) == first
    assert ran(tree, target) == []


def test_a_file_that_changed_while_its_tests_ran_is_run_again(tree: Path) -> None:
    assert ran(tree, "machinery", f"EDITED={HELPER}") == [SUITE]
    assert ran(tree, "machinery") == [SUITE]
    assert ran(tree, "machinery") == []


def test_a_folder_of_nothing_but_a_cache_is_no_category(tree: Path) -> None:
    assert ran(tree, "patterns") == ["-m catalogue prove --category calls"]


def test_the_guard_does_not_look_at_what_is_half_rendered(tree: Path) -> None:
    check = "-m catalogue check"
    assert ran(tree, "guard") == [check]
    together = ran(tree, "--jobs=2", "guard", "site")
    assert together[-1] == check
    assert "-m catalogue render" in together


SERVES = """\
serve:
\t@python3 -m http.server --bind 127.0.0.1 $(port) & python3 -c "input()" < pipe
"""


@pytest.mark.parametrize(
    ("recipe", "status", "said"),
    [
        (SERVES, 0, "the site answered, and is gone"),
        ("serve:\n\t@exit 3\n", 1, "it ended by itself"),
    ],
)
def test_the_step_of_ci_that_serves_tells_an_end_from_an_answer(
    tmp_path: Path, recipe: str, status: int, said: str
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/serve", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(recipe)
    os.mkfifo(tmp_path / "pipe")
    port = free_port()
    run = subprocess.run(
        [tmp_path / ".ci/serve"],
        env={"PATH": os.environ["PATH"], "port": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, said in run.stdout + run.stderr) == (status, True)
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", port)):
        pass
