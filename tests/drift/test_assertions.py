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
    ],
)
def test_a_test_that_cannot_fail_is_named(small: SmallTree, body: str) -> None:
    test = f"\n\ndef test_ring() -> None:\n    {body}\n"
    small.write(TEST, small.read(TEST) + HELPER + test)
    small.names(TEST, "def test_ring", "test_ring asserts nothing")


@pytest.mark.parametrize(
    "body",
    [
        "assert Forwarding()",
        "with pytest.raises(ValueError):\n        Forwarding(targets=1)",
        "assess(Forwarding())",
        "pytest.fail('ring')",
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
