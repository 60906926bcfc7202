"""What changed of a row is told in JSON, exactly, and without its secrets."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from snippets.database import row_diff_naive
from snippets.database.row_diff import (
    LONGEST_VALUE,
    MASK,
    REDACTED,
    Change,
    UnrecordedError,
    diff,
)

if TYPE_CHECKING:
    from catalogue.plugin import Proof

USERS = sa.Table(
    "users",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("settings", sa.JSON),
    sa.Column("pin", sa.String, info=REDACTED),
)
TOKENS = sa.Table(
    "tokens",
    sa.MetaData(),
    sa.Column("tenant", sa.Integer, primary_key=True),
    sa.Column("token", sa.String, primary_key=True, info=REDACTED),
)


class Tone(Enum):
    """How an extension rings."""

    BELL = "bell"


def row(
    settings: object = None, pin: object = None, key: object = 1
) -> dict[Any, object]:
    return {USERS.c.id: key, USERS.c.settings: settings, USERS.c.pin: pin}


def told(old: object, new: object) -> tuple[object, object] | None:
    """Return what is told of a value that was `old` and is `new`."""
    change = diff(USERS, row(old), row(new))
    return None if change is None else change.changed["settings"]


def test_only_what_changed_is_told() -> None:
    assert diff(USERS, row("a", "1234"), row("b", "1234")) == Change(
        "update", "users", "[1]", {"settings": ("a", "b")}
    )


def test_a_row_that_stayed_as_it_was_is_no_change() -> None:
    assert diff(USERS, row({"a": [1]}, "1234"), row({"a": [1]}, "1234")) is None
    assert diff(USERS, None, None) is None


def test_the_action_follows_from_the_two_states() -> None:
    new = diff(USERS, None, row("a"))
    gone = diff(USERS, row("a"), None)
    assert new == Change(
        "insert", "users", "[1]", {"id": (None, 1), "settings": (None, "a")}
    )
    assert gone == Change(
        "delete", "users", "[1]", {"id": (1, None), "settings": ("a", None)}
    )


def test_a_redacted_value_is_masked_and_an_absent_one_stays_none() -> None:
    changed = diff(USERS, row(pin="1234"), row(pin="9876"))
    first = diff(USERS, row(), row(pin="1234"))
    assert changed is not None
    assert changed.changed == {"pin": (MASK, MASK)}
    assert first is not None
    assert first.changed == {"pin": (None, MASK)}


@pytest.mark.parametrize("key", ["pin", "settings"])
def test_true_in_place_of_1_is_a_change_in_a_secret_too(key: str) -> None:
    secrets = sa.Table("secrets", sa.MetaData(), sa.Column(key, sa.JSON, info=REDACTED))
    old, new = ({secrets.c[key]: {"mute": mute}} for mute in (1, True))
    change = diff(secrets, old, new)
    assert change is not None
    assert change.changed == {key: (MASK, MASK)}
    assert diff(secrets, old, old) is None


def test_a_redacted_part_of_a_key_is_masked_in_the_key_too() -> None:
    change = diff(TOKENS, None, {TOKENS.c.tenant: 7, TOKENS.c.token: "s3cret"})
    assert change is not None
    assert change.row_key == '[7,"***"]'
    assert "s3cret" not in repr(change)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 11, 22, 12, tzinfo=UTC), "2026-11-22T12:00:00Z"),
        (timedelta(minutes=1), "PT1M"),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Tone.BELL, "bell"),
        (b"\x00\xff", "AP8="),
        (float("inf"), "Infinity"),
        ("\x00\x1b[2J\u2028'\"", "\x00\x1b[2J\u2028'\""),
    ],
)
def test_a_value_that_is_not_of_json_is_told_as_text(value: object, text: str) -> None:
    assert told(None, value) == (None, text)


def test_true_in_place_of_1_is_a_change() -> None:
    assert told({"mute": 1}, {"mute": True}) == ({"mute": 1}, {"mute": True})


def test_a_huge_value_is_told_by_its_length_and_digest() -> None:
    was, now = told("x" * 10_000_000, "x" * 10_000_001) or ({}, {})
    assert isinstance(was, dict)
    assert isinstance(now, dict)
    assert was["bytes"] == 10_000_002
    assert was["sha256"] != now["sha256"]
    assert len(was["sha256"]) == 64


def test_the_longest_value_is_still_told_in_full() -> None:
    value = "x" * (LONGEST_VALUE - 2)
    assert told(None, value) == (None, value)
    assert told(None, value + "x") != (None, value + "x")


def nested(depth: int) -> object:
    value: object = "s3cret"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [{"a": object()}, "s3cret\ud800", nested(5_000)])
def test_what_json_cannot_hold_is_refused_without_quoting_it(value: object) -> None:
    with pytest.raises(UnrecordedError, match=r"users\.settings: JSON") as caught:
        told(None, value)
    assert caught.value.__suppress_context__
    assert "s3cret" not in str(caught.value)


def test_what_json_cannot_hold_may_be_redacted() -> None:
    change = diff(USERS, row(), row(pin=object()))
    assert change is not None
    assert change.changed == {"pin": (None, MASK)}


def test_a_column_that_was_not_read_is_not_told() -> None:
    old: dict[Any, object] = {USERS.c.id: 1, USERS.c.pin: "1"}
    assert diff(USERS, old, {USERS.c.id: 1, USERS.c.pin: "1"}) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(json_values, json_values)
def test_whatever_json_holds_is_told_as_it_is(old: object, new: object) -> None:
    same = json.dumps(old) == json.dumps(new)
    assert told(old, new) == (None if same else (old, new))


def test_the_naive_version_tells_secrets_addresses_and_misses_a_change(
    proof: Proof,
) -> None:
    naive = row_diff_naive.diff
    assert "1234" in naive({"pin": "1234"}, {"pin": "9876"})
    assert " at 0x" in naive({"tone": None}, {"tone": object()})
    assert naive({"settings": {"mute": 1}}, {"settings": {"mute": True}}) == "{}"
    proof.breaks("A PIN is changed.", "The log holds the old PIN and the new one.")
    proof.breaks(
        "A value has no form in JSON.", "The log holds the address of an object."
    )
    proof.breaks(
        "A setting in a JSON column goes from 1 to true.", "No change is found."
    )
