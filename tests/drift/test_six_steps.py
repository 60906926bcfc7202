"""README's six steps, followed to the letter in a copy of the tree, yield a page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from catalogue import record
from catalogue.patterns import ROOT, find
from tests.support.trees import copy_tree, run_in

if TYPE_CHECKING:
    from pathlib import Path

CATEGORY = "caching"
PATTERN = "greeting_words"
PLANNED = "observability/tracing"

TEST = '''\
"""Callers are always greeted."""

import pytest

from catalogue.plugin import Proof
from snippets.caching import greeting_words_naive
from snippets.caching.greeting_words import greeting


def test_an_unknown_language_is_greeted_in_english() -> None:
    assert greeting("de") == "Guten Tag"
    assert greeting("nl") == "Hello"


def test_the_naive_version_greets_nobody(proof: Proof) -> None:
    with pytest.raises(KeyError):
        greeting_words_naive.greeting("nl")
    proof.breaks("A caller from a tenant without a greeting", "the call ends")
'''
MODULE = '''\
"""Greet callers in the language of their tenant."""

GREETINGS = {"de": "Guten Tag", "en": "Hello"}


def greeting(language: str) -> str:
    """Return a greeting; a language without one of its own is greeted in English."""
    return GREETINGS.get(language, GREETINGS["en"])
'''
NAIVE = '''\
"""Greet callers in the language of their tenant, as long as it has a greeting."""

GREETINGS = {"de": "Guten Tag", "en": "Hello"}


def greeting(language: str) -> str:
    """Return the greeting."""
    return GREETINGS[language]
'''
USAGE = '''\
"""A tenant without a greeting of its own takes a call."""

from snippets.caching.greeting_words import greeting


def main() -> None:
    """Greet a caller."""
    print(greeting("nl"))


if __name__ == "__main__":
    main()
'''
PAGE = """\
---
title: Greeting words
description: Callers are greeted in the language of their tenant, or in English.
tags: [calls]
maturity: new
symptoms:
  - Callers of a new tenant are cut off.
composes_with: []
---

--8<-- "build/fragments/caching/greeting-words/card.md"

## When to use it

**Use it when**

- tenants speak different languages;
- new tenants arrive before their words do;
- a call must never end for want of a word.

**Do not use it when**

- one language will do: keep [a cached answer](cached.md);
- the words are recordings: keep [a cached answer](cached.md);
- a missing word is an error: keep [a cached answer](cached.md).

## Code {data-search-exclude}

=== "Module"

    ```python title="snippets/caching/greeting_words.py"
    --8<-- "snippets/caching/greeting_words.py"
    ```

=== "Usage"

    ```python title="snippets/caching/greeting_words_usage.py"
    --8<-- "snippets/caching/greeting_words_usage.py"
    ```

=== "Test"

    ```python title="tests/caching/test_greeting_words.py"
    --8<-- "tests/caching/test_greeting_words.py"
    ```

## What breaks without it

```python title="snippets/caching/greeting_words_naive.py"
--8<-- "snippets/caching/greeting_words_naive.py"
```

--8<-- "build/fragments/caching/greeting-words/breaks.md"

## How it works

A missing greeting falls back to English.

--8<-- "build/fragments/caching/greeting-words/diagram.md"

## Consequences

| Gains | Costs | Watch in production |
|---|---|---|
| every caller is greeted | some in a foreign language | languages asked for in vain |

## Evidence

--8<-- "build/fragments/caching/greeting-words/evidence.md"

## Related patterns

- [Cached](cached.md) keeps the answer.
"""
DIAGRAM = """\
flowchart LR
  accTitle: Choice of a greeting
  accDescr: The tenant's language is looked up; without a greeting it is English.
  call[Call] --> words{Greeting?}
  words -->|yes| own[Own words]
  words -->|no| english[English]
"""
WRITTEN = {
    "tests/<category>/test_<pattern>.py": TEST,
    "snippets/<category>/<pattern>.py": MODULE,
    "snippets/<category>/<pattern>_naive.py": NAIVE,
    "snippets/<category>/<pattern>_usage.py": USAGE,
    "docs/patterns/<category>/<pattern>.md": PAGE,
    "docs/patterns/<category>/<pattern>.mmd": DIAGRAM,
}


def steps() -> list[str]:
    """Return the numbered steps of README."""
    readme = (ROOT / "README.md").read_text("utf-8")
    _, _, section = readme.partition("## Add a pattern in six steps")
    section = section.partition("\n## ")[0]
    return re.findall(r"(?ms)^\d\. (.+?)(?=^\d\. |\Z)", section)


def place(template: str) -> str:
    """Return the path that a step's template means for this pattern."""
    name = PATTERN.replace("_", "-") if template.startswith("docs/") else PATTERN
    return template.replace("<category>", CATEGORY).replace("<pattern>", name)


def test_the_steps_yield_a_page_and_touch_only_their_own_files(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    before = snapshot(tree)
    found = steps()
    assert len(found) == 6
    templates = [t for step in found[:5] for t in re.findall(r"`([^`]*<[^`]*)`", step)]
    assert sorted(templates) == sorted(WRITTEN)
    for template in templates:
        path = tree / place(template)
        path.write_text(WRITTEN[template], "utf-8")

    assert "`make fix`" in found[3]
    fixed = run_in(tree, "catalogue.examples")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    assert (
        "# > Hello"
        in (tree / find(f"{CATEGORY}/{PATTERN}", tree).role("usage")).read_text()
    )

    assert "`docs/matrix.yaml`" in found[5]
    claim_a_row(tree)
    assert "`make test`" in found[5]
    proven = run_in(tree, "pytest", "-q", place("tests/<category>/test_<pattern>.py"))
    assert proven.returncode == 0, proven.stdout
    for command in (
        ("catalogue", "check"),
        ("catalogue", "render"),
        ("mkdocs", "build", "--quiet", "--strict", "--site-dir", "build/site"),
    ):
        result = run_in(tree, *command)
        assert result.returncode == 0, result.stdout + result.stderr

    pattern = find(f"{CATEGORY}/{PATTERN}", tree)
    assert record.state_of(record.load(tree), pattern) == "proven"
    page = (tree / "build/site" / pattern.url / "index.html").read_text("utf-8")
    assert "the call ends" in page
    assert "Callers of a new tenant" in (
        tree / "build/site/start/symptoms/index.html"
    ).read_text("utf-8")
    after = snapshot(tree)
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {*map(place, WRITTEN), "docs/matrix.yaml"}
    assert not before.keys() - after.keys()


def claim_a_row(tree: Path) -> None:
    """Point one planned row of the matrix at the new pattern."""
    matrix = tree / "docs/matrix.yaml"
    text = matrix.read_text("utf-8")
    line = next(line for line in text.splitlines() if "planned:" in line)
    indent = line[: len(line) - len(line.lstrip())]
    test = place("tests/<category>/test_<pattern>.py")
    proof = f"{test}::test_an_unknown_language_is_greeted_in_english"
    claim = {"pattern": f"{CATEGORY}/{PATTERN}", "proofs": [proof]}
    mine = yaml.safe_dump(claim, default_flow_style=True, width=1000).strip()
    replaced = f"{indent}ours: {mine}" if "ours:" in line else None
    if replaced is None:
        mine = yaml.safe_dump(claim, width=1000).strip().replace("\n", f"\n{indent}")
        replaced = indent + mine
    matrix.write_text(text.replace(line, replaced, 1), "utf-8")


def snapshot(tree: Path) -> dict[str, bytes]:
    """Return every file that belongs to the repository, without what is generated."""
    generated = ("build/", "docs/data/", ".hypothesis/", ".pytest_cache/")
    found = {
        path.relative_to(tree).as_posix(): path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {
        path: data for path, data in found.items() if not path.startswith(generated)
    }
