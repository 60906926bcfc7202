"""A small catalogue of one pattern without a fault, for tests that put one in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import yaml

from catalogue import guard, plain_yaml
from catalogue.patterns import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from catalogue.guard import Problem

PAGE = "docs/patterns/telephony/call-forwarding.md"
SNIPPET = "snippets/telephony/call_forwarding.py"
USAGE = "snippets/telephony/call_forwarding_usage.py"
NAIVE = "snippets/telephony/call_forwarding_naive.py"
TEST = "tests/telephony/test_call_forwarding.py"
INDEX = "docs/index.md"
MATRIX = "docs/matrix.yaml"

FILES = {
    PAGE: """\
---
title: Call forwarding
description: Calls reach the extension that a user chose, and never ring in a circle.
tags: [calls]
maturity: new
symptoms:
  - "Two extensions that forward to each other keep a call for ever."
composes_with: []
---

--8<-- "build/fragments/telephony/call-forwarding/card.md"

## When to use it

**Use it when** users of `Forwarding` choose where a call goes.

## Code {data-search-exclude}

=== "Module"

    ```python title="snippets/telephony/call_forwarding.py"
    --8<-- "snippets/telephony/call_forwarding.py"
    ```

=== "Usage"

    ```python title="snippets/telephony/call_forwarding_usage.py"
    --8<-- "snippets/telephony/call_forwarding_usage.py"
    ```

=== "Test"

    ```python title="tests/telephony/test_call_forwarding.py"
    --8<-- "tests/telephony/test_call_forwarding.py"
    ```

## What breaks without it

```python
--8<-- "snippets/telephony/call_forwarding_naive.py"
```

--8<-- "build/fragments/telephony/call-forwarding/breaks.md"

## How it works

`Forwarding.target_of` follows `targets` until an extension has none, and raises
`ForwardingLoopError` when it meets one twice.

--8<-- "build/fragments/telephony/call-forwarding/diagram.md"

## Consequences

| Gains | Costs | Watch in production |
|---|---|---|
| A call ends | A set of names | `ForwardingLoopError` |

## Evidence

--8<-- "build/fragments/telephony/call-forwarding/evidence.md"

## Related patterns

None yet; see [all of them](../../index.md).
""",
    "docs/patterns/telephony/call-forwarding.mmd": (
        "flowchart LR\naccTitle: Forwarding\naccDescr: A call\na --> b\n"
    ),
    "docs/patterns/telephony/index.md": "---\ntitle: Telephony\n---\n\nCalls.\n",
    INDEX: """\
---
title: Catalogue
---

One pattern, tested with Pydantic 2.14 on Python 3.11. It stands in `snippets/`.

- [Call forwarding](patterns/telephony/call-forwarding.md)

## More

Nothing.
""",
    SNIPPET: '''\
"""Find the extension at which a forwarded call rings."""

from pydantic import BaseModel


class ForwardingLoopError(Exception):
    """The extensions forward to each other."""


class Forwarding(BaseModel):
    """Where calls to an extension go.

    ```python
    from snippets.telephony.call_forwarding import Forwarding

    print(Forwarding(targets={"1001": "1002"}).target_of("1001"))
    # > 1002
    ```
    """

    targets: dict[str, str] = {}

    def target_of(self, extension: str) -> str:
        """Return the last extension; a loop raises `ForwardingLoopError`."""
        seen: set[str] = set()
        while extension in self.targets:
            if extension in seen:
                raise ForwardingLoopError(extension)
            seen.add(extension)
            extension = self.targets[extension]
        return extension
''',
    USAGE: '''\
"""Ada forwards her calls to Grace."""

from snippets.telephony.call_forwarding import Forwarding


def main() -> None:
    """Follow one call."""
    forwarding = Forwarding(targets={"1001": "1002"})
    print(forwarding.target_of("1001"))
    # > 1002


if __name__ == "__main__":
    main()
''',
    NAIVE: '''\
"""Follow the targets one after the other."""


def target_of(targets: dict[str, str], extension: str, patience: int) -> str | None:
    """Return the last extension, if patience lasts."""
    while extension in targets and patience:
        extension, patience = targets[extension], patience - 1
    return extension if patience else None
''',
    TEST: '''\
"""A forwarded call rings somewhere."""

import pytest

from catalogue.plugin import Proof
from snippets.telephony import call_forwarding_naive
from snippets.telephony.call_forwarding import Forwarding, ForwardingLoopError


def test_a_loop_is_refused() -> None:
    with pytest.raises(ForwardingLoopError):
        Forwarding(targets={"1": "2", "2": "1"}).target_of("1")


def test_the_naive_version_rings_for_ever(proof: Proof) -> None:
    assert call_forwarding_naive.target_of({"1": "2", "2": "1"}, "1", 99) is None
    proof.breaks("A call of two that forward to each other", "it rings for ever")
''',
    "catalogue/__main__.py": '"""The command line."""\n',
    "pyproject.toml": """\
[project]
name = "small"
requires-python = ">=3.11"
dependencies = ["pydantic>=2.12"]

[project.optional-dependencies]
test = ["fakeredis>=2.33", "pytest>=8"]

[tool.pytest.ini_options]
addopts = ["--strict-markers"]
empty_parameter_set_mark = "fail_at_collect"

[tool.mypy]
strict = true
""",
    "requirements.txt": (
        "fakeredis==2.40.0\npydantic==2.14.3\npytest==9.2.0\nredis==8.1.0\n"
        "typing-extensions==4.16.0\n"
    ),
    "Makefile": """\
BIN := .venv/bin

test: check ## all
\t@$(BIN)/python -m pytest

check: ## the fast half
\t@$(BIN)/python -m catalogue check

test-lowest:
\t@$(BIN)/uv pip install --resolution lowest-direct -r pyproject.toml
\t@build/lowest/bin/python -m pytest
""",
    "README.md": """\
# Small

```sh
make test
```

runs all, `.venv/bin/python -m catalogue check` a part of it. The patterns stand in
`snippets/<category>/<pattern>.py`.
""",
    ".github/workflows/ci.yml": """\
jobs:
  test:
    services:
      redis:
        image: redis:7.0
    strategy:
      matrix:
        python: ["3.11", "3.12"]
    steps:
      - uses: actions/checkout@v4
      - run: make test
  lowest:
    steps:
      - run: make test-lowest
""",
}


@cache
def _matrix() -> str:
    """Return the real comparison with one answer of ours, the rest planned."""
    _, data = plain_yaml.read((ROOT / MATRIX).read_text("utf-8"))
    for entry in data["entries"]:
        ours = entry["ours"]
        entry["ours"] = {"planned": ours.get("planned", ours.get("pattern"))}
    data["entries"][0]["ours"] = {
        "pattern": "telephony/call_forwarding",
        "proofs": [f"{TEST}::test_a_loop_is_refused"],
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class SmallTree:
    """The tree at `root`, and what the guard says of it."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> SmallTree:
        """Write the tree without a fault."""
        tree = cls(root)
        for path, text in FILES.items():
            tree.write(path, text)
        tree.write("mkdocs.yml", (ROOT / "mkdocs.yml").read_text("utf-8"))
        tree.write(MATRIX, _matrix())
        return tree

    def write(self, path: str, text: str) -> None:
        """Write a whole file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(text.encode("utf-8"))

    def read(self, path: str) -> str:
        """Return a file's text."""
        return (self.root / path).read_bytes().decode("utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        """Put `new` where `old` stands; it must stand there."""
        text = self.read(path)
        assert old in text, f"{path} has no {old!r}"
        self.write(path, text.replace(old, new, 1))

    def line(self, path: str, words: str) -> int:
        """Return the line on which `words` begin."""
        return self.read(path).partition(words)[0].count("\n") + 1

    def problems(self) -> list[Problem]:
        """Return what the guard says."""
        return guard.check(self.root)

    def names(self, path: str, words: str, reason: str) -> None:
        """Require the guard to name the line of `words`, and the reason."""
        line = self.line(path, words)
        problems = self.problems()
        assert [
            problem
            for problem in problems
            if (problem.path, problem.line) == (path, line)
            and reason in problem.message
        ], f"{path}:{line}: {reason!r} is not among {list(map(str, problems))}"
