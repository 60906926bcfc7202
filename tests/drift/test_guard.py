"""The guard finds nothing in a tree without a fault, and finds it in the real one."""

from __future__ import annotations

import pytest

from catalogue.patterns import ROOT, discover
from tests.support.small_tree import INDEX, PAGE, SNIPPET, TEST, SmallTree
from tests.support.trees import copy_tree, run_in

PATTERN = next(
    one
    for one in discover(ROOT)
    if all((ROOT / path).exists() for path in (one.page, one.snippet, one.test))
)
INCLUDED = f'    --8<-- "{PATTERN.snippet}"'


def test_a_tree_without_a_fault_has_no_problem(small: SmallTree) -> None:
    assert small.problems() == []


def test_a_problem_is_one_line_with_its_place(small: SmallTree) -> None:
    small.replace(PAGE, "## Code", "## The code")
    line = small.line(PAGE, "## The code")
    assert list(map(str, small.problems())) == [
        f"{PAGE}:{line}: the heading here must be 'Code', not 'The code'"
    ]


def test_problems_are_in_order_and_none_is_said_twice(small: SmallTree) -> None:
    small.replace(PAGE, "## Code", "## The code")
    small.write(INDEX, f"{small.read(INDEX)}\n    ring\n\n    ring\n")
    small.write(SNIPPET, small.read(SNIPPET) + "\nprint(1)\n")
    problems = small.problems()
    assert problems == sorted(set(problems))
    assert {one.path for one in problems} == {INDEX, PAGE, SNIPPET}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("mkdocs.yml", "markdown_extensions: ["),
        ("mkdocs.yml", "validation: warn"),
        ("mkdocs.yml", "plugins: [{}]"),
        ("mkdocs.yml", "markdown_extensions: [[toc]]"),
        ("pyproject.toml", "[project"),
        ("pyproject.toml", "project = 'small'"),
        ("pyproject.toml", "[project]\noptional-dependencies = ['redis']"),
        ("pyproject.toml", "[project]\nrequires-python = 3.11"),
        ("pyproject.toml", "[tool.pytest]\nini_options = true"),
        ("pyproject.toml", "[tool]\nmypy = 'strict'"),
        ("build/verification.json", "{"),
        ("docs/matrix.yaml", "entries: ["),
        (PAGE, "---\ntitle: [\n---\n"),
        (SNIPPET, "def ring(:\n"),
        (TEST, "def ring(:\n"),
        (SNIPPET, "\x00"),
        (PAGE, "\ufeffringing"),
        ("notebooks/01_a.ipynb", "{"),
        (".github/workflows/ci.yml", "jobs: ["),
        (".github/workflows/ci.yml", "jobs: 3"),
        (".github/workflows/ci.yml", "jobs:\n  a:\n    steps:"),
        ("requirements.txt", "pydantic==ring\n"),
        ("requirements.txt", "pydantic==2.x\n"),
        ("requirements.txt", ""),
        ("Makefile", ""),
        ("README.md", ""),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem_and_no_traceback(
    small: SmallTree, path: str, text: str
) -> None:
    small.write(path, text)
    problems = small.problems()
    assert problems or path == "README.md"
    assert all(one.line >= 1 and "\n" not in str(one) for one in problems)


@pytest.mark.parametrize("path", ["mkdocs.yml", "pyproject.toml", "docs/matrix.yaml"])
def test_a_file_that_is_missing_is_a_problem(small: SmallTree, path: str) -> None:
    (small.root / path).unlink()
    assert path in {one.path for one in small.problems()}


INJECTED = [
    (PATTERN.page, "## Evidence", "```sql\nring\n```\n\n## Proof"),
    (PATTERN.page, INCLUDED, INCLUDED[:-4] + '.txt"'),
    (PATTERN.page, "## Consequences", "`Ring.x` of pytest 1.2\n\n## Consequences"),
    (PATTERN.test, "\n\n\n", "\n\n\nmark.xfail()\n\n"),
    (PATTERN.snippet, "", "import requests\nprint()\n"),
    ("README.md", "make test\n", "make ring\n"),
    (".github/workflows/ci.yml", "make test-lowest", "true"),
    ("docs/matrix.yaml", "\nentries:", "\nrings: 1\nentries:"),
    ("mkdocs.yml", "check_paths: true", "check_paths: false"),
]
NAMED = [
    (PATTERN.page, "ring\n```", "code typed by hand"),
    (PATTERN.page, "## Proof", "must be 'Evidence'"),
    (PATTERN.page, INCLUDED[:-4] + '.txt"', "no test runs"),
    (PATTERN.page, "`Ring.x`", "there is no Ring.x"),
    (PATTERN.page, "`Ring.x`", "in use is"),
    (PATTERN.test, "mark.xfail", "xfail leaves something out"),
    (PATTERN.snippet, "import requests", "is not declared"),
    (PATTERN.snippet, "print()", "runs at import"),
    ("README.md", "make ring", "no step of CI runs"),
    (".github/workflows/ci.yml", "name:", "no job tries the lowest"),
    ("docs/matrix.yaml", "rings: 1", "rings"),
    ("mkdocs.yml", "pymdownx.snippets", "is set to"),
]


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> SmallTree:
    """A copy of this repository's tree with drift of many kinds put in."""
    tree = SmallTree(copy_tree(tmp_path_factory.mktemp("spoilt")))
    for path, old, new in INJECTED:
        if old:
            tree.replace(path, old, new)
        else:
            tree.write(path, tree.read(path) + new)
    return tree


@pytest.fixture(scope="module")
def said(spoilt: SmallTree) -> str:
    """What the command says of the spoilt copy."""
    run = run_in(spoilt.root, "catalogue", "check")
    assert run.returncode == 1
    return run.stderr


@pytest.mark.parametrize(("path", "at", "reason"), NAMED)
def test_drift_put_into_the_real_tree_is_named_by_the_command(
    spoilt: SmallTree, said: str, path: str, at: str, reason: str
) -> None:
    place = f"{path}:{spoilt.line(path, at)}: "
    found = [line for line in said.splitlines() if line.startswith(place)]
    assert any(reason in line for line in found), said
