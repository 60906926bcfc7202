"""A name between back-ticks that the code of today does not have is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import INDEX, PAGE, SNIPPET, TEST

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree


NOTEBOOK = "notebooks/01_a.ipynb"
RING = """

class Bell:
    def __init__(self) -> None:
        self.bell = os.environ["BIN_PATH"]


class Ring(Bell, Forwarding):
    pass


def with_targets(within: int) -> None:
    pass
"""


def say(small: SmallTree, words: str) -> None:
    small.write(TEST, small.read(TEST) + RING)
    small.write(INDEX, f"{small.read(INDEX)}\nSee `{words}` there.\n")


@pytest.mark.parametrize(
    "words",
    [
        "snippets.telephony.call_forwarding",
        "snippets.telephony.call_forwarding.Forwarding",
        "snippets.telephony.call_forwarding.Forwarding.target_of",
        "Forwarding",
        "Forwarding.targets",
        "Forwarding.target_of()",
        'Forwarding.target_of("1001")',
        "Forwarding.model_validate",
        "Forwarding(targets={})",
        "forwarding.target_of",
        "call_forwarding_naive.target_of",
        "ForwardingLoopError",
        "raise ForwardingLoopError",
        "target_of",
        "patience",
        "targets={}",
        "dict[str, str]",
        "str | None",
        "pydantic.BaseModel",
        "BaseModel.model_dump",
        "asyncio.TaskGroup",
        "Ring.target_of",
        "Ring.model_dump",
        "Ring.bell",
        "BIN_PATH",
        "None",
        "null",
        "async with",
        "with_targets",
        "within",
        "snippets/telephony/call_forwarding.py",
        "snippets/<category>/<pattern>_usage.py",
        "call_forwarding.py",
        "test_*.py",
        "tests/telephony/",
        "docs/",
        "telephony/call_forwarding",
        f"{TEST}::test_a_loop_is_refused",
        "pyproject.toml",
        "make test",
        "python -m catalogue check",
        "404 Not Found",
        "30 s",
        "X-Request-ID",
        "Cache-Control: no-store",
        "application/problem+json",
        "GET /users/{id}",
        "/health",
        "SELECT",
        "SELECT targets FROM forwarding FOR UPDATE",
        "user:42",
        "redis://127.0.0.1:6379",
        '"1001"',
        "--resolution",
    ],
)
def test_what_the_tree_has_or_what_is_no_name_is_allowed(
    small: SmallTree, words: str
) -> None:
    say(small, words)
    assert small.problems() == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("snippets.telephony.call_waiting", "there is no snippets.telephony.call_w"),
        ("snippets.telephony.call_forwarding.Ring", "there is no snippets.telephony"),
        ("snippets.telephony.call_forwarding.Forwarding.ring", "there is no"),
        ("Forwarder", "there is no Forwarder"),
        ("Forwarding.ring", "there is no Forwarding.ring"),
        ("Forwarding.target_of.ring", "there is no Forwarding.target_of.ring"),
        ("Forwarding.ring()", "there is no Forwarding.ring"),
        ("Ring.rang", "there is no Ring.rang"),
        ("target_of.ring", "there is no target_of.ring"),
        ("Forwarding().target_of", "code typed into the text"),
        ("snippets.telephony.call_forwarding.Forwarding.targets.ring", "there is no"),
        ("Forwarding.targets_of", "there is no Forwarding.targets_of"),
        ("Forwarding.model_ring", "there is no Forwarding.model_ring"),
        ("forwarding.ring()", "there is no forwarding.ring"),
        ("target_for", "there is no target_for"),
        ("target_for(1)", "there is no target_for"),
        ("ringing={}", "there is no ringing"),
        ("list[Rung]", "there is no Rung"),
        ("Rung | None", "there is no Rung"),
        ("raise RingError", "there is no RingError"),
        ("pydantic.RingModel", "there is no pydantic.RingModel"),
        ("BaseModel.ring", "there is no BaseModel.ring"),
        ("asyncio.Ring", "there is no asyncio.Ring"),
        ("sqlalchemy.exc.IntegrityError", "there is no sqlalchemy.exc"),
        ("requests.get", "there is no requests.get"),
        ("snippets/telephony/call_waiting.py", "there is no such file"),
        ("snippets/<category>/<pattern>_ring.py", "there is no such file"),
        ("call_waiting.py", "there is no such file"),
        ("tests/messaging/", "there is no such file"),
        ("telephony/call_waiting", "there is no such file"),
        (f"{TEST}::test_ring", "there is no such test"),
        ("tests/telephony/test_ring.py::test_ring", "there is no such test"),
        ("build/ring.json", "there is no such file"),
        ("make ring", "there is no target ring"),
        ("python -m catalogue.ring", "there is no module catalogue.ring"),
        ("--ring", "no command has this option"),
        ("RING_URL", "no code reads this"),
        ("SELECT rings FROM forwarding", "there is no rings"),
        ("x = 1", "code typed into the text"),
        ("await forwarding.target_of() or 1", "code typed into the text"),
        ("lambda: 1", "code typed into the text"),
        ("lambda call: call.ring", "code typed into the text"),
        ("import os", "code typed into the text"),
        ("for x in y:", "code typed into the text"),
        ("x == 1", "code typed into the text"),
        ("it is", "neither a name nor a literal"),
        ("rings & rings!", "neither a name nor a literal"),
    ],
)
def test_what_the_tree_does_not_have_is_named(
    small: SmallTree, words: str, reason: str
) -> None:
    say(small, words)
    small.names(INDEX, f"See `{words}`", reason)


@pytest.mark.parametrize(
    "words",
    [
        *("Forwarding.rings", "ForwardingRingError", "target_for", "target_for()"),
        "snippets.telephony.call_waiting",
    ],
)
@pytest.mark.parametrize("path", [SNIPPET, NOTEBOOK])
def test_a_name_in_a_docstring_or_a_notebook_is_read_too(
    small: SmallTree, path: str, words: str
) -> None:
    text = ["# Calls\n", "\n", "Forwarded.\n", f"See `{words}`, `a.b` and `Accept`."]
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    small.write(NOTEBOOK, json.dumps(notebook, indent=1))
    small.write(
        INDEX, f'{small.read(INDEX)}\n--8<-- "build/fragments/notebooks/01_a.md"\n'
    )
    small.replace(SNIPPET, "    targets:", f'    """See `{words}`."""\n\n    targets:')
    small.names(path, f"See `{words}`", f"there is no {words.removesuffix('()')}")


@pytest.mark.parametrize(
    "words",
    ["Forwarding.rings", "ForwardingRingError", "target_for", "target_for()"],
)
def test_a_name_in_a_diagram_is_read_too(small: SmallTree, words: str) -> None:
    path = PAGE.replace(".md", ".mmd")
    known = "Forwarding.target_of, ForwardingLoopError, PostgreSQL"
    small.write(path, f'{small.read(path)}b["{known}"] -->|x| c[Raise {words}]\n')
    small.names(path, "b[", f"there is no {words.removesuffix('()')}")
    small.replace(path, words, "it")
    assert small.problems() == []


def test_other_words_in_a_docstring_may_be_data(small: SmallTree) -> None:
    words = "`a.b`, `Accept`, `*`, `-created_at,email`, `call_forwarding`, `Forwarding`"
    small.replace(SNIPPET, "    targets:", f'    """See {words}."""\n\n    targets:')
    assert small.problems() == []


def test_a_renamed_method_is_named_where_prose_speaks_of_it(small: SmallTree) -> None:
    for path in small.root.rglob("*.py"):
        text = path.read_text("utf-8").replace("target_of", "destination_of")
        path.write_text(text, "utf-8")
    small.names(PAGE, "`Forwarding.target_of`", "there is no Forwarding.target_of")


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (PAGE, "Two extensions", "`Forwarder.ring` and others"),
        (PAGE, "Calls reach", "`Forwarder.ring` reaches"),
        ("README.md", "runs all", "runs `Forwarder.ring`"),
        ("NOTES.md", "runs all", "runs `Forwarder.ring`"),
        (PAGE, "| A call ends", "| `Forwarder.ring` ends"),
        (PAGE, "None yet;", "> - None in `Forwarder.ring`;"),
        (PAGE, "None yet;", "[`Forwarder.ring`](../../index.md);"),
        (PAGE, "None yet;", "<code>Forwarder.ring</code>"),
        (PAGE, "None yet;", "``Forwarder.ring``"),
    ],
)
def test_a_name_is_read_wherever_it_stands(
    small: SmallTree, path: str, old: str, new: str
) -> None:
    small.write("NOTES.md", small.read("README.md"))
    small.replace(path, old, new)
    small.names(path, "Forwarder.ring", "there is no Forwarder.ring")


def test_a_reference_page_to_a_module_that_has_gone_is_named(small: SmallTree) -> None:
    text = small.read(INDEX)
    small.write(INDEX, f"{text}\n::: snippets.telephony.call_forwarding\n")
    assert small.problems() == []
    small.write(INDEX, f"{text}\n::: snippets.telephony.call_waiting\n")
    small.names(INDEX, "::: ", "there is no snippets.telephony.call_waiting")
