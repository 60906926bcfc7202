"""An example shows exactly what it prints: each way past that is closed.

The numbers are those of the known pitfalls of pytest-examples 0.0.18.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from catalogue.errors import CatalogueError
from catalogue.examples import paths, recorded, update
from catalogue.patterns import ROOT
from tests.support.small_tree import SNIPPET, USAGE, SmallTree
from tests.support.trees import run_in

if TYPE_CHECKING:
    from pathlib import Path

SESSION = ("pytest", "-q", "--import-mode=importlib", "tests/examples")
HEAD = '"""A call."""\n'
TAIL = '\n\nif __name__ == "__main__":\n    main()\n'


def example(root: Path, body: str, head: str = HEAD) -> Path:
    """Write a usage module whose main function has this body."""
    path = root / USAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"    {line}".rstrip() for line in body.split("\n")]
    text = "\n".join([f"{head}\n\ndef main() -> None:", *lines]) + TAIL
    path.write_bytes(text.encode("utf-8"))
    return path


def shown(root: Path, body: str, head: str = HEAD) -> str:
    """Return the body with its outputs recorded anew."""
    text = recorded(example(root, body, head), root)
    inner = text.partition("def main() -> None:\n")[2].removesuffix(TAIL)
    return "\n".join(line.removeprefix("    ") for line in inner.split("\n"))


def refused(root: Path, body: str, head: str = HEAD) -> str:
    """Return why an example with this body cannot be recorded."""
    path = example(root, body, head)
    with pytest.raises(CatalogueError) as caught:
        recorded(path, root)
    assert str(caught.value).startswith(f"{USAGE}:")
    return str(caught.value).removeprefix(f"{USAGE}:")


def session(root: Path) -> SmallTree:
    """Write a small tree with the machinery that runs its examples."""
    small = SmallTree.at(root)
    machinery = [
        f"catalogue/{name}.py"
        for name in (
            "__init__",
            "errors",
            "patterns",
            "plain_yaml",
            "sources",
            "strict",
        )
    ]
    for path in (
        *machinery,
        "catalogue/examples.py",
        "tests/examples/test_examples.py",
    ):
        small.write(path, (ROOT / path).read_text("utf-8"))
    return small


def test_what_is_printed_is_recorded_beneath(tmp_path: Path) -> None:
    body = "print('ringing', 3)\nprint()\nprint('a  \\n b')"
    new = (
        "print('ringing', 3)\n# > ringing 3\nprint()\n# >\n"
        "print('a  \\n b')\n# > a\n# >  b"
    )
    assert shown(tmp_path, body) == new
    assert shown(tmp_path, new) == new


def test_a_changed_output_is_a_difference(tmp_path: Path) -> None:
    assert shown(tmp_path, "print('busy')\n# > ringing") == "print('busy')\n# > busy"


# 1: on Python 3.11 an exception in an example ended the whole session.
def test_an_example_that_raises_is_one_failure_with_its_line(tmp_path: Path) -> None:
    reason = refused(tmp_path, "x = 1\nraise LookupError('no call')")
    assert reason == "6: the example raises LookupError: no call"


def test_a_session_goes_on_after_an_example_that_raises(tmp_path: Path) -> None:
    small = session(tmp_path)
    small.replace(USAGE, "    print(", "    raise LookupError\n    print(")
    run = run_in(tmp_path, *SESSION)
    assert "INTERNALERROR" not in run.stdout + run.stderr
    assert "1 failed, 2 passed" in run.stdout
    assert f"{USAGE}:9: the example raises LookupError" in run.stdout


def test_a_session_fails_for_a_wrong_output_and_mends_it_if_asked(
    tmp_path: Path,
) -> None:
    small = session(tmp_path)
    right = small.read(USAGE)
    small.replace(USAGE, "    # > 1002", "    # > 1003")
    run = run_in(tmp_path, *SESSION)
    assert "1 failed, 2 passed" in run.stdout
    assert "-    # > 1003" in run.stdout
    assert "+    # > 1002" in run.stdout
    assert "3 passed" in run_in(tmp_path, *SESSION, "--update-examples").stdout
    assert small.read(USAGE) == right


def test_an_example_that_exits_is_a_failure(tmp_path: Path) -> None:
    reason = refused(tmp_path, "raise SystemExit(0)")
    assert reason == "5: the example raises SystemExit: 0"


# 2 and 3: the form is the one that the formatter leaves alone.
def test_the_formatter_changes_nothing_and_a_second_run_neither(tmp_path: Path) -> None:
    body = (
        "print('ringing')\nprint({'a': [1, 2]})\nprint('x' * 120)\n"
        "for call in range(2):\n    print(\n        call,\n        [call]\n    )"
    )
    path = example(tmp_path, body)
    assert update(tmp_path) == [path]
    command = [sys.executable, "-m", "ruff", "format", "--isolated", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    formatted = path.read_bytes()
    assert b"# > ringing" in formatted
    assert update(tmp_path) == []
    subprocess.run(command, check=True, capture_output=True)
    assert path.read_bytes() == formatted


# 4: an output that nobody printed passed.
@pytest.mark.parametrize(
    "body",
    [
        "x = 1\n# > 1\nprint(x)\n# > 1",
        "print(1)\n# > 1\n# > 2",
        "print(1)\n# > 1\n\n# > 2",
        "print(1)\n# > 1\nif not print:\n    # > 2\n    pass",
    ],
)
def test_an_output_that_nobody_printed_is_a_difference(
    tmp_path: Path, body: str
) -> None:
    new = shown(tmp_path, body)
    assert new != body
    assert new.count("# >") == 1


@pytest.mark.parametrize(
    "body",
    [
        "def ring():\n    print(1)\n    # > 1\nprint(2)",
        "if not print:\n    print(1)\n    # > 1",
        "for call in ():\n    print(call)\n    # > 1",
        "return\nprint(1)\n# > 1",
    ],
)
def test_a_print_that_is_never_reached_is_refused(tmp_path: Path, body: str) -> None:
    assert "this print is never reached" in refused(tmp_path, body)


def test_a_print_that_raises_on_purpose_is_left_alone(tmp_path: Path) -> None:
    body = (
        "try:\n    print({}['call'])\nexcept KeyError as error:\n"
        "    print(repr(error))\n    # > KeyError('call')"
    )
    assert shown(tmp_path, body) == body


# 5: of a loop with two prints only the first round was checked.
def test_every_round_of_a_loop_is_recorded(tmp_path: Path) -> None:
    body = "for call in range(2):\n    print('a', call)\n    print('b', call)"
    new = (
        "for call in range(2):\n    print('a', call)\n    # > a 0\n    # > a 1\n"
        "    print('b', call)\n    # > b 0\n    # > b 1"
    )
    assert shown(tmp_path, body) == new
    assert shown(tmp_path, new.replace("    # > a 1\n", "")) == new
    assert shown(tmp_path, new.replace("b 1", "b 2")) == new


# 6: a print in these places was not found, and its output landed at the margin.
@pytest.mark.parametrize(
    "body",
    [
        "match 1:\n    case 1:\n        print(1)\n        # > 1",
        "try:\n    pass\nfinally:\n    print(1)\n    # > 1",
        "try:\n    pass\nexcept ValueError:\n    pass\nelse:\n    print(1)\n    # > 1",
        "for _ in ():\n    pass\nelse:\n    print(1)\n    # > 1",
        "while False:\n    pass\nelse:\n    print(1)\n    # > 1",
        "try:\n    raise OSError\nexcept* OSError:\n    print(1)\n    # > 1",
        "print(\n    1,\n    sep='',\n)\n# > 1",
        "print('a'\n      'b', *[\n    1\n])\n# > ab 1",
        "class Call:\n    def ring(_):\n        print(1)\n        # > 1\nCall().ring()",
    ],
)
def test_a_print_is_found_wherever_it_stands(tmp_path: Path, body: str) -> None:
    assert shown(tmp_path, body) == body


@pytest.mark.parametrize(
    "body",
    ["list(map(print, [1]))", "say = print\nsay(1)", "[print(one) for one in [1]]"],
)
def test_a_print_that_is_no_statement_is_refused(tmp_path: Path, body: str) -> None:
    assert "only a call of print that stands alone" in refused(tmp_path, body)


# 7: a print in another module was swallowed.
def test_a_print_in_another_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "call_bell.py").write_text("def ring():\n    print('!')\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    body = "import call_bell\nprint(1)\ncall_bell.ring()"
    reason = refused(tmp_path, body)
    assert reason.startswith("7: ")
    assert "call_bell.py prints; return the value" in reason


def test_what_an_example_logs_is_not_printed_by_the_test_runner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """log = logging.getLogger("bell")
log.addHandler(logging.NullHandler())
try:
    raise OSError("broken")
except OSError:
    log.exception("no bell")
print(1)"""
    assert shown(tmp_path, body, f"{HEAD}\nimport logging\n") == f"{body}\n# > 1"
    assert caplog.records == []


# 8: `file` and `end` were ignored, and other streams were not seen.
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print(1, file=sys.stderr)", "print's option file is not recorded"),
        ("print(1, end='')", "print's option end is not recorded"),
        ("print(1, **{'end': ''})", "print's option None is not recorded"),
        ("sys.stdout.write('ring')", "'ring' was written by other means"),
        ("sys.stderr.write('ring')", "'ring' was written by other means"),
        ("warnings.warn_explicit('ring', UserWarning, 'a', 1)", "ring"),
    ],
)
def test_output_by_any_other_means_is_refused(
    tmp_path: Path, body: str, reason: str
) -> None:
    assert reason in refused(tmp_path, body, f"{HEAD}\nimport sys, warnings\n")


# 9: a set has no order, and an address changes.
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{1, 'a'}", "a set has no order"),
        ("[frozenset('ab')]", "a set has no order"),
        ("{'calls': ({1},)}", "a set has no order"),
        ("object()", "an address differs from run to run"),
        ("[object()]", "an address differs from run to run"),
        ("repr(main)", "an address differs from run to run"),
    ],
)
def test_a_value_that_prints_differently_each_time_is_refused(
    tmp_path: Path, value: str, reason: str
) -> None:
    assert reason in refused(tmp_path, f"print({value})")


# 10: without a final newline, and with CRLF, an example always failed.
@pytest.mark.parametrize(("old", "new"), [(b"\n", b"\r\n"), (b"main()\n", b"main()")])
def test_other_ends_of_lines_are_refused_in_words(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    path = example(tmp_path, "print(1)\n# > 1")
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(CatalogueError, match=f"{USAGE}:1: lines must end in LF"):
        recorded(path, tmp_path)


def test_a_file_in_another_encoding_is_refused_in_words(tmp_path: Path) -> None:
    path = example(tmp_path, "print('é')")
    path.write_bytes(path.read_bytes().decode().encode("latin-1"))
    with pytest.raises(CatalogueError, match=f"{USAGE}:1: not text in UTF-8"):
        recorded(path, tmp_path)


# 11: the example ran under another path, and left itself behind as __main__.
def test_an_example_runs_under_its_own_path_and_leaves_no_trace(
    tmp_path: Path,
) -> None:
    main = sys.modules["__main__"]
    body = "print(__file__.endswith(__spec__.origin), __name__)\n# > True __main__"
    assert shown(tmp_path, body) == body
    assert f"def main() -> None:\n    {body[:20]}" in (tmp_path / USAGE).read_text()
    assert sys.modules["__main__"] is main


# 12: the examples of a module and of its docstrings could not be updated in one run.
def test_docstrings_and_module_are_updated_in_one_run(tmp_path: Path) -> None:
    head = (
        '"""Rings.\n\n```python\nprint(1 + 1)\n# > 3\n```\n\nAnd:\n\n'
        "```python\nfor ring in range(2):\n    print(ring)\n```\n" + '"""\n'
    )
    path = example(tmp_path, "print(5)", head)
    assert update(tmp_path) == [path]
    text = path.read_text("utf-8")
    assert "print(1 + 1)\n# > 2\n```" in text
    assert "    print(ring)\n    # > 0\n    # > 1\n```" in text
    assert "    print(5)\n    # > 5\n" in text
    assert update(tmp_path) == []


def test_an_example_in_an_indented_docstring_is_checked(tmp_path: Path) -> None:
    small = SmallTree.at(tmp_path)
    path = tmp_path / SNIPPET
    assert recorded(path, tmp_path) == small.read(SNIPPET)
    small.replace(SNIPPET, "    # > 1002", "    # > 1003")
    text = recorded(path, tmp_path)
    assert '    print(Forwarding(targets={"1001": "1002"})' in text
    assert "\n    # > 1002\n    ```\n" in text


def test_an_example_in_a_docstring_fails_with_its_line(tmp_path: Path) -> None:
    small = SmallTree.at(tmp_path)
    small.replace(SNIPPET, "    print(Forw", "    raise LookupError\n    print(Forw")
    line = small.line(SNIPPET, "    raise LookupError")
    with pytest.raises(CatalogueError, match=f"{SNIPPET}:{line}: the example raises"):
        recorded(tmp_path / SNIPPET, tmp_path)


# 13: examples that pytest-examples does not find: see test_snippet_rules.
# 14: it runs on snippets alone, since on a page it would find the directive.
def test_every_file_of_the_snippets_is_run_and_no_page(tmp_path: Path) -> None:
    SmallTree.at(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in paths(tmp_path)]
    assert found == sorted(
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("snippets/**/*.py")
    )
    assert USAGE in found


# 15: a length of line decided on the form of an output.
def test_a_long_output_keeps_its_form(tmp_path: Path) -> None:
    body = f"print('x' * 200)\n# > {'x' * 200}"
    assert shown(tmp_path, body) == body


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    small = SmallTree.at(tmp_path)
    small.write(SNIPPET, '"""Ring."""\n\nimport no_such_module\n')
    with pytest.raises(CatalogueError, match=f"{SNIPPET}:3: importing it raises"):
        recorded(tmp_path / SNIPPET, tmp_path)


def test_an_example_imports_from_its_own_tree(tmp_path: Path) -> None:
    small = SmallTree.at(tmp_path)
    assert recorded(tmp_path / USAGE, tmp_path) == small.read(USAGE)
    small.replace(SNIPPET, "        return extension", "        return '1009'")
    assert "# > 1009" in recorded(tmp_path / USAGE, tmp_path)


def test_the_command_updates_and_says_so(tmp_path: Path) -> None:
    small = session(tmp_path)
    small.replace(USAGE, "    # > 1002\n", "")
    first = run_in(tmp_path, "catalogue.examples")
    assert (
        first.stdout == f"{USAGE}: outputs recorded\nexamples: 3 files run, 1 updated\n"
    )
    assert "    # > 1002\n" in small.read(USAGE)
    assert run_in(tmp_path, "catalogue.examples").stdout.endswith("0 updated\n")
    small.replace(USAGE, "    print(", "    raise LookupError\n    print(")
    failed = run_in(tmp_path, "catalogue.examples")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"{USAGE}:9: the example raises LookupError")


FULL = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
runpy.run_module("catalogue.examples", run_name="__main__")
"""
"""Runs the command where no file can be longer than 64 bytes, as on a full disk."""


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    small = session(tmp_path)
    small.replace(USAGE, "    # > 1002\n", "")
    before = small.read(USAGE)
    failed = subprocess.run(
        [sys.executable, "-c", FULL],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"{USAGE}:1: cannot be used (File too large)")
    assert len(failed.stderr.splitlines()) == 1
    assert small.read(USAGE) == before
