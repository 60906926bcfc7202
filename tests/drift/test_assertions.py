"""A test that asserts nothing is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import TEST

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

HELPER = "\n\ndef assess(call: object) -> None:\n    assert call\n"


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "Forwarding()",
        "assert True",
        "asyncio.run(asyncio.wait_for(Forwarding(), 1))",
        "assert 1, 'one'",
        "if Forwarding():\n        return",
        "print(Forwarding())",
        "Forwarding().fail()",
        "Forwarding().raises(1)",
    ],
)
def test_a_test_that_cannot_fail_is_named(small: SmallTree, body: str) -> None:
    test = f"\n\ndef test_ring() -> None:\n    {body}\n"
    small.write(TEST, small.read(TEST) + HELPER + test)
    small.names(TEST, "def test_ring", "test_ring asserts nothing")


@pytest.mark.parametrize(
    ("body", "at", "reason"),
    [
        (
            "if Forwarding():\n        return\n    assert x",
            "return",
            "before it asserts",
        ),
        (
            "if x:\n        x()\n    else:\n        return\n    assess(x)",
            "return",
            "before it asserts",
        ),
        (
            "for call in x:\n        return\n    assert x",
            "return",
            "test_ring returns before it asserts",
        ),
        (
            "with x:\n        return\n    assert x",
            "return",
            "test_ring returns before it asserts",
        ),
        (
            "async def call():\n        assert x\n    await x",
            "async def call",
            "test_ring never calls call",
        ),
        (
            "try:\n        assert x\n    except AssertionError:\n        x()",
            "assert x",
            "an assertion that fails here passes",
        ),
        (
            "try:\n        assess(x)\n    except (OSError, Exception):\n        x()",
            "assess(x)",
            "an assertion that fails here passes",
        ),
        (
            "try:\n        assert x\n    except:\n        x()",
            "assert x",
            "an assertion that fails here passes",
        ),
        (
            "with contextlib.suppress(AssertionError):\n        assert x",
            "assert x",
            "an assertion that fails here passes",
        ),
        (
            "async with x, suppress(Exception):\n        assert x",
            "assert x",
            "an assertion that fails here passes",
        ),
        (
            "with pytest.raises(AssertionError):\n        assert x",
            "assert x",
            "an assertion that fails here passes",
        ),
    ],
)
def test_a_test_that_passes_without_its_assertion_is_named(
    small: SmallTree, body: str, at: str, reason: str
) -> None:
    test = f"\n\nasync def test_ring(x) -> None:\n    {body}\n"
    small.write(TEST, HELPER.lstrip() + small.read(TEST) + test)
    line = small.read(TEST).count("\n") - test.rpartition(at)[2].count("\n") + 1
    found = [str(one) for one in small.problems()]
    assert any(one.startswith(f"{TEST}:{line}: ") and reason in one for one in found)


@pytest.mark.parametrize(
    "body",
    [
        "if redis_backend == 'redis':\n        assert x",
        "with x:\n        if x.dialect.name == 'sqlite':\n            assess(x)",
        "if broker_backend == 'memory':\n        x()\n    else:\n        assert x",
    ],
)
def test_a_test_that_asserts_on_some_backends_only_is_named(
    small: SmallTree, body: str
) -> None:
    test = f"\n\ndef test_ring(x) -> None:\n    {body}\n"
    small.write(TEST, small.read(TEST) + HELPER + test)
    small.names(TEST, "def test_ring", "asserts on some backends only")
    small.write(TEST, f"{small.read(TEST)}    assert x == 3\n")
    assert small.problems() == []


@pytest.mark.parametrize(
    "body",
    [
        "assert Forwarding()",
        "assert Forwarding()\n    if Forwarding():\n        return\n    assert 1 - 1",
        "try:\n        ring()\n    except OSError:\n        return\n    assert ring()",
        "def ring():\n        if ring:\n            return\n    assert ring()",
        "if backend:\n        assert ring()\n    else:\n        assess(ring())",
        "with pytest.raises(Exception, match='x'):\n        pytest.fail('x')",
        "with pytest.raises(ValueError):\n        Forwarding(targets=1)",
        "assess(Forwarding())",
        "pytest.fail('ring')",
        "def call():\n        assert ring()\n    ring(call)",
        "@ring\n    def call():\n        assert ring()",
    ],
)
def test_a_test_that_asserts_by_itself_or_a_helper_is_none(
    small: SmallTree, body: str
) -> None:
    test = f"\n\ndef test_ring() -> None:\n    {body}\n"
    small.write(TEST, small.read(TEST) + HELPER + test)
    assert small.problems() == []


def test_a_helper_of_another_file_counts_if_it_asserts(small: SmallTree) -> None:
    small.write("tests/support/calls.py", f'"""Calls."""{HELPER}')
    start = "\n\nfrom tests.support.calls import assess\n\n\n"
    test = "def test_ring() -> None:\n    assess(Forwarding())\n"
    small.write(TEST, small.read(TEST) + start + test)
    assert small.problems() == []
    small.replace("tests/support/calls.py", "    assert call", "    print(call)")
    small.names(TEST, "def test_ring", "test_ring asserts nothing")
