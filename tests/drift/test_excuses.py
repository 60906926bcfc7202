"""A test that is left out and a checker that is told to look away are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import SNIPPET, TEST, USAGE

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

TEST_BODY = "def test_ring() -> None:\n    assert True\n"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("@pytest.mark.skip", "skip"),
        ('@pytest.mark.skip(reason="later")', "skip"),
        ('@pytest.mark.skipif(True, reason="later")', "skipif"),
        ("@pytest.mark.xfail", "xfail"),
        ("@pytest.mark.xfail(strict=True)", "xfail"),
        ('@pytest.mark.parametrize("a", [pytest.param(1, marks=mark.xfail)])', "xfail"),
        ('@unittest.skip("later")', "skip"),
        ('@unittest.skipIf(True, "later")', "skipIf"),
        ("@unittest.expectedFailure", "expectedFailure"),
        ("@typing.no_type_check", "no_type_check"),
        ("@getattr(pytest.mark, 'xfail')", "xfail"),
        ("pytestmark = pytest.mark.skip\n", "skip"),
        ('pytest.skip("later", allow_module_level=True)\n', "skip"),
        ('numpy = pytest.importorskip("numpy")\n', "importorskip"),
        ("from pytest import skip\n", "skip"),
        ("from unittest import SkipTest as Done\n", "SkipTest"),
        ("raise unittest.SkipTest\n", "SkipTest"),
        ("from _pytest.outcomes import Skipped\n", "Skipped"),
        ('request.node.add_marker("xfail")\n', "add_marker"),
        ("request.applymarker(mark)\n", "applymarker"),
        ("pytest_plugins = ['ring']\n", "pytest_plugins"),
        ("collect_ignore = ['test_ring.py']\n", "collect_ignore"),
        ("collect_ignore_glob = ['*']\n", "collect_ignore_glob"),
        ("__test__ = False\n", "__test__"),
        ('pytest.exit("done", returncode=0)\n', "pytest.exit"),
        ("os._exit(0)\n", "_exit"),
    ],
)
@pytest.mark.parametrize("path", [TEST, "tests/conftest.py", "conftest.py"])
def test_a_way_out_is_named(small: SmallTree, path: str, line: str, name: str) -> None:
    before = small.read(TEST) if path == TEST else '"""Fixtures."""\n'
    small.write(path, f"{before}\n\n{line}\n{TEST_BODY}")
    small.names(path, line, f"{name} leaves something out")


@pytest.mark.parametrize(
    "hook",
    [
        "def pytest_ignore_collect() -> bool:\n    return True\n",
        "def pytest_collection_modifyitems(items) -> None:\n    items.clear()\n",
        "def pytest_pyfunc_call() -> bool:\n    return True\n",
    ],
)
@pytest.mark.parametrize("path", ["tests/conftest.py", "notebooks/conftest.py", TEST])
def test_a_hook_that_can_leave_out_tests_is_named(
    small: SmallTree, path: str, hook: str
) -> None:
    small.write(path, f'"""Fixtures."""\n\n\n{hook}')
    small.names(path, "def pytest", "a hook can leave tests out")


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (
            f"def outer() -> None:\n    {TEST_BODY}".replace("\n    a", "\n        a"),
            "",
        ),
        (f"class Rings:\n    {TEST_BODY}".replace("\n    a", "\n        a"), ""),
        (f"if False:\n    {TEST_BODY}".replace("\n    a", "\n        a"), ""),
    ],
)
def test_a_test_that_pytest_does_not_collect_is_named(
    small: SmallTree, test: str, reason: str
) -> None:
    small.write(TEST, f"{small.read(TEST)}\n\n{test}")
    small.names(TEST, "    def test_ring", reason or "is never collected")


def test_tests_in_a_file_that_pytest_does_not_collect_are_named(
    small: SmallTree,
) -> None:
    small.write("tests/telephony/rings.py", TEST_BODY)
    small.names("tests/telephony/rings.py", "def test_ring", "is never collected")


@pytest.mark.parametrize(
    "comment",
    [
        "# type: ignore",
        "# type: ignore[arg-type]",
        "#type:ignore",
        "# noqa",
        "# noqa: S101",
        "# NOQA",
        "# ruff: noqa",
        "# ruff:noqa: ALL",
        "# pragma: no cover",
        "# pragma: no branch",
        "# mypy: ignore-errors",
        "# pyright: ignore",
        "# pylint: disable=all",
        "# fmt: off",
        "# fmt: skip",
        "# isort: skip_file",
        "# nosec",
    ],
)
@pytest.mark.parametrize("path", [SNIPPET, USAGE, TEST, "catalogue/__main__.py"])
def test_a_comment_that_silences_a_checker_is_named(
    small: SmallTree, path: str, comment: str
) -> None:
    small.write(path, f"{small.read(path)}\nRINGS = 1  {comment}\n")
    small.names(path, "RINGS", "tells a checker to look away")


def test_a_file_that_is_no_python_is_named_for_that(small: SmallTree) -> None:
    small.write(TEST, 'WORDS = """  # noqa\n')
    small.names(TEST, "WORDS", "not readable as Python")


def test_a_string_that_looks_like_such_a_comment_is_none(small: SmallTree) -> None:
    small.write(TEST, small.read(TEST) + '\n\nWORDS = "# noqa"\n')
    assert small.problems() == []


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        (
            'empty_parameter_set_mark = "fail_at_collect"',
            "",
            "[tool.pytest",
            "a test without parameters is skipped",
        ),
        ('"--strict-markers"', '"--deselect=tests/a.py"', "--des", "leaves tests out"),
        ('"--strict-markers"', '"--ignore=tests/a"', "--ignore", "leaves tests out"),
        ('"--strict-markers"', '"-k", "not ring"', '"-k"', "-k leaves tests out"),
        ("strict = true", "", "[tool.mypy]", "mypy is not strict"),
        ("strict = true", "strict = false", "[tool.mypy]", "mypy is not strict"),
        ('["--strict-markers"]', '"-m fast"', "addopts", "-m leaves tests out"),
        *(
            ("[tool.mypy]", f"{setting}\n\n[tool.mypy]", setting, reason)
            for setting, reason in {
                'python_files = "ring_*.py"': "python_files can leave tests out",
                'python_functions = "ring_*"': "python_functions can leave tests out",
                'norecursedirs = ["telephony"]': "norecursedirs can leave tests out",
                'testpaths = ["tests/a"]': "testpaths leaves tests out",
            }.items()
        ),
        *(
            ("strict = true", f"strict = true\n{setting}", setting, "mypy to look away")
            for setting in (
                "[[tool.mypy.overrides]]\nignore_errors = true",
                "ignore_errors = true",
                "ignore_missing_imports = true",
                'exclude = ["snippets"]',
                'disable_error_code = ["arg-type"]',
                'follow_imports = "skip"',
                "warn_unused_ignores = false",
            )
        ),
    ],
)
def test_an_option_that_leaves_something_out_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    small.replace("pyproject.toml", old, new)
    small.names("pyproject.toml", at.rpartition("\n")[2], reason)


@pytest.mark.parametrize(
    "option", ["-k fast", "--deselect=tests/a.py", "-m fast", "--ignore=tests/calls"]
)
@pytest.mark.parametrize("of_a_file", [False, True])
def test_a_recipe_that_leaves_tests_out_is_named(
    small: SmallTree, option: str, *, of_a_file: bool
) -> None:
    own = f"-m pytest --ignore=tests/drift/test_a.py {option}\n"
    small.replace("Makefile", "-m pytest\n", own)
    if of_a_file:
        small.replace("Makefile", "test: check", "build/${bytes}.passed:")
        stamped = "test: check build/${bytes}.passed\n\ncheck: ##"
        small.replace("Makefile", "check: ##", stamped)
    word = option.partition(" ")[0]
    found = [str(one) for one in small.problems()]
    assert f"Makefile:{small.line('Makefile', word)}: {word} leaves tests out" in (
        "".join(found)
    )


def test_a_cell_left_out_of_the_check_is_named(small: SmallTree) -> None:
    small.write("notebooks/01_a.ipynb", '{"cells": [\n"# NBVAL_SKIP"\n]}\n')
    small.names("notebooks/01_a.ipynb", '"# NBVAL', "a cell left out of the check")


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("Makefile", "\t@$(BIN)/python -m pytest", "\t-@$(BIN)/python -m pytest"),
        ("Makefile", "\t@$(BIN)/python -m pytest", "\t@-$(BIN)/python -m pytest"),
        ("Makefile", "-m pytest", "-m pytest || true"),
        ("Makefile", "-m pytest\n", "-m pytest; echo done\n"),
        ("Makefile", "-m pytest\n", "-m pytest | tail -1\n"),
        ("Makefile", "-m catalogue check\n", "-m catalogue check 2>&1 | tee log\n"),
        ("Makefile", "test: check", ".IGNORE:\ntest: check"),
        ("Makefile", "test: check", "MAKEFLAGS += --keep-going\ntest: check"),
        (".github/workflows/ci.yml", "jobs:", "on:\n  push:\n    paths: [a]\njobs:"),
        ("Makefile", "-m pytest", "-m pytest\n\t@make -k check"),
        (".github/workflows/ci.yml", "- run: make test\n", "- run: make test || :\n"),
        (".github/workflows/ci.yml", "- run: make test\n", "- run: make test | cat\n"),
        (
            ".github/workflows/ci.yml",
            "- run: make test\n",
            "- continue-on-error: true\n        run: make test\n",
        ),
        (
            ".github/workflows/ci.yml",
            "- run: make test\n",
            "- if: false\n        run: make test\n",
        ),
    ],
)
def test_a_failure_that_passes_is_named(
    small: SmallTree, path: str, old: str, new: str
) -> None:
    small.replace(path, old, new)
    found = [str(one) for one in small.problems() if one.path == path]
    assert "a failure here passes" in "".join(found)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".ci/run", "set -euo pipefail\nmake test | tee log\nmake help; echo\n"),
        ("Makefile", "\nring:\n\t@test -x uv || { $(BIN)/python -m venv; }\n"),
        (".github/workflows/ring.yml", "jobs:\n  a:\n    steps:\n      - run: |\n"),
    ],
)
def test_a_command_whose_failure_counts_is_allowed(
    small: SmallTree, path: str, text: str
) -> None:
    small.write(path, (small.read(path) if path == "Makefile" else "") + text)
    assert small.problems() == []
