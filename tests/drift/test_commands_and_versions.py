"""A command that CI does not run, and a version that is not in use, are named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import INDEX, PAGE, SNIPPET

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

README = "README.md"
WORKFLOW = ".github/workflows/ci.yml"


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nmake ring\n```",
        "```sh\n$ make ring\n```",
        "```sh\nmake test && make ring\n```",
        "```sh\nmake test ring\n```",
        "Or `make ring` now.",
        "Or `.venv/bin/python -m ring` now.",
        "Or `docker run ring` now.",
        "Or `.ci/ring` now.",
    ],
)
def test_a_command_that_no_step_runs_is_named(small: SmallTree, text: str) -> None:
    small.write(README, f"{small.read(README)}\n{text}\n")
    line = next(one for one in text.split("\n") if "ring" in one)
    small.names(README, line, "no step of CI runs")


@pytest.mark.parametrize(
    "text",
    [
        "```python\nringing()\n```",
        "```\nringing()\n```",
        "~~~sh\nringing\n~~~",
        "- a\n\n  ```sh\n  ringing\n  ```",
        "> ```sh\n> ringing\n> ```",
        "Text.\n\n    ringing()",
        "Text.\n\n\tringing()",
        ">     ringing()",
        "<pre>ringing()</pre>",
        '--8<-- "ringing"',
    ],
)
def test_code_in_the_read_me_file_is_named(small: SmallTree, text: str) -> None:
    small.write(README, f"{small.read(README)}\n{text}\n")
    first = small.read(README).removesuffix(f"{text}\n").count("\n") + 1
    problems = [one for one in small.problems() if one.path == README]
    assert any(first <= one.line <= first + text.count("\n") for one in problems)


def test_a_setting_before_a_command_is_no_part_of_it(small: SmallTree) -> None:
    small.write(README, f"{small.read(README)}\n```sh\nCI=1 make test # all\n```\n")
    assert small.problems() == []
    small.write(README, f"{small.read(README)}\n```sh\nmake 'test\n```\n")
    small.names(README, "make 'test", "no step of CI runs")


def test_a_command_that_ci_ceases_to_run_is_named(small: SmallTree) -> None:
    small.replace(WORKFLOW, "run: make test\n", "run: echo make\n")
    small.names(README, "make test", "no step of CI runs `make test`")
    small.names(README, "runs all, `", "no step of CI runs `.venv/bin/python -m cat")


@pytest.mark.parametrize("said", ["echo make test", "printf make test"])
def test_a_command_that_ci_only_says_is_named(small: SmallTree, said: str) -> None:
    small.replace(WORKFLOW, "run: make test\n", f"run: {said}\n")
    small.names(README, "make test", "no step of CI runs `make test`")


def test_a_command_that_a_target_of_ci_runs_counts(small: SmallTree) -> None:
    small.write(README, small.read(README) + "\nSee `make check`.\n")
    assert small.problems() == []
    small.replace("Makefile", "test: check", "test:")
    small.names(README, "See `make check`", "no step of CI runs")
    small.write("Makefile", small.read("Makefile") + "\ntest: check\n")
    assert small.problems() == []


def test_a_command_that_a_script_of_ci_runs_counts(small: SmallTree) -> None:
    small.write(".ci/run", "#!/usr/bin/env bash\nset -eu\nmake ring port=1 &\n")
    small.write("Makefile", small.read("Makefile") + "\nring:\n\t@echo\n")
    small.write(README, small.read(README) + "\nSee `make ring`.\n")
    small.names(README, "See `make ring`", "no step of CI runs")
    small.replace(
        WORKFLOW, "- run: make test\n", "- run: make test\n      - run: .ci/run\n"
    )
    assert small.problems() == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("Pydantic 2.13", "in use is 2.14.3"),
        ("pydantic 1", "in use is 2.14.3"),
        ("Pydantic v3", "in use is 2.14.3"),
        ("pytest 8.4", "in use is 9.2.0"),
        ("fakeredis version 2.41", "in use is 2.40.0"),
        ("typing-extensions 4.1", "in use is 4.16.0"),
        ("Typing Extensions 4.1", "in use is 4.16.0"),
        ("redis-py 7.0", "in use is 8.1.0"),
        ("Redis 6", "in use is 7.0"),
        ("Redis 7.2", "in use is 7.0"),
        ("Python 3.10", "in use is 3.11, 3.12"),
        ("Pydantic\n2.13", "in use is 2.14.3"),
        ("[Pydantic](https://pydantic.dev) 2.13", "in use is 2.14.3"),
        ("**Pydantic** 2.13", "in use is 2.14.3"),
        ("`pydantic` 2.13", "in use is 2.14.3"),
        ("Pydantic's 2.13", "in use is 2.14.3"),
        ("Pydantic (2.13)", "in use is 2.14.3"),
        ("Pydantic, version 2.13", "in use is 2.14.3"),
        ("Pydantic v. 2.13", "in use is 2.14.3"),
        ("Pydantic&nbsp;2.13", "in use is 2.14.3"),
        ("Pydantic >= 2.14", "in use is 2.12"),
        ("Pydantic≥2.11", "in use is 2.12"),
        ("Python >= 3.10", "in use is 3.11"),
    ],
)
@pytest.mark.parametrize("path", [INDEX, PAGE, README])
def test_a_version_that_is_not_in_use_is_named(
    small: SmallTree, path: str, words: str, reason: str
) -> None:
    text = small.read(path)
    small.write(path, f"{text}\nIt needs {words}, no less.\n")
    small.names(path, words.rpartition("\n")[2], reason)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (PAGE, "Calls reach", "With Pydantic 2.13 calls reach"),
        (PAGE, '"Two ext', '"With Pydantic 2.13 two ext'),
        (SNIPPET, "Find the", "With Pydantic 2.13, find the"),
    ],
)
def test_a_version_in_a_front_matter_or_a_docstring_is_named(
    small: SmallTree, path: str, old: str, new: str
) -> None:
    small.replace(path, old, new)
    assert "Pydantic 2.13: in use is 2.14.3" in "".join(map(str, small.problems()))


def test_a_version_in_a_notebook_is_named(small: SmallTree) -> None:
    path = "notebooks/01_a.ipynb"
    text = "# Calls\n\nWith Pydantic 2.13."
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    small.write(path, json.dumps(notebook))
    assert "Pydantic 2.13: in use is 2.14.3" in "".join(map(str, small.problems()))


def test_a_server_is_known_by_its_short_name(small: SmallTree) -> None:
    services = "services:\n      pg:\n        image: postgres:15\n"
    small.replace(WORKFLOW, "services:\n", services)
    small.write(INDEX, small.read(INDEX) + "\nIt needs Postgres 14.\n")
    small.names(INDEX, "It needs Postgres", "in use is 15")


@pytest.mark.parametrize(
    "words",
    [
        "Pydantic 2",
        "pydantic 2.14",
        "fakeredis 2.40.0",
        "Redis 7",
        "redis-py 8.1",
        "redis-py 9",
        "Python 3.12",
        "Pydantic >= 2.12",
        "Pydantic (2 statements)",
        "Pydantic: 1 query",
        "Python ≥ 3.11",
    ],
)
def test_a_version_in_use_may_be_named(small: SmallTree, words: str) -> None:
    small.write(INDEX, f"{small.read(INDEX)}\nIt needs {words}.\n")
    assert small.problems() == []


def test_an_upgrade_is_named_where_prose_lags_behind(small: SmallTree) -> None:
    small.replace("requirements.txt", "pydantic==2.14.3", "pydantic==2.15.0")
    small.names(INDEX, "One pattern, tested with Pydantic 2.14", "in use is 2.15.0")


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ("pydantic>=2.12", "pydantic", '"pydantic', "has no lowest version"),
        ("pydantic>=2.12", "pydantic<3", '"pydantic', "has no lowest version"),
        ("pydantic>=2.12", "pydantic>=3", '"pydantic', "is not 2.14.3"),
        ("pydantic>=2.12", "pydantic==2.12", '"pydantic', "is not 2.14.3"),
        ("pytest>=8", "pytest>=8,<9", "pytest>=8", "is not 9.2.0"),
        ("pydantic>=2.12", "ring>=1", '"ring', "is not in requirements.txt"),
        ('requires-python = ">=3.11"', "", "[project]", "requires-python is missing"),
        ('">=3.11"', '">=3.9"', "requires-python", "no job runs Python 3.9"),
        ('">=3.11"', '"3.11"', "requires-python", "'3.11': Invalid specifier"),
        ("pydantic>=2.12", "pydantic>==", "dependencies", "'pydantic>==': Expected"),
    ],
)
def test_a_bound_that_cannot_hold_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    small.replace("pyproject.toml", old, new)
    small.names("pyproject.toml", at, reason)


@pytest.mark.parametrize("jobs", ["jobs: [", "jobs:\n  a: 1\n  a: 2"])
def test_a_workflow_that_is_no_plain_yaml_is_named(small: SmallTree, jobs: str) -> None:
    small.write(WORKFLOW, f"{jobs}\n")
    found = [str(one) for one in small.problems() if one.path == WORKFLOW]
    assert any(": not YAML: " in one for one in found), found


def test_lowest_versions_that_no_job_tries_are_named(small: SmallTree) -> None:
    small.replace(WORKFLOW, "make test-lowest", "make test")
    small.names(WORKFLOW, "jobs:", "no job tries the lowest declared versions")


def test_a_job_that_does_not_take_the_lowest_versions_is_named(
    small: SmallTree,
) -> None:
    small.replace("Makefile", "--resolution lowest-direct ", "")
    small.names("Makefile", "test-lowest:", "--resolution lowest-direct")
