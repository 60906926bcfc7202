"""Say in JSON what changed between two states of a row, and keep secrets out of it.

Values are compared as the JSON that is stored, so `True` for 1 in a JSON column is a
change. Of a value longer than `LONGEST_VALUE` the length and digest are told. A value
that JSON cannot hold raises `UnrecordedError`, which names the column, not the value.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from pydantic import ConfigDict, TypeAdapter
from sqlalchemy.exc import InvalidRequestError

LONGEST_VALUE = 10_000
"""Bytes of JSON."""
MASK = "***"
REDACTED = {"redacted": True}
"""The `info` of a column of whose values it is only told that they changed."""

Row: TypeAlias = Mapping[Any, Any]


class UnrecordedError(InvalidRequestError):
    """A write cannot be recorded; it is not made, or it is rolled back."""


@dataclass(frozen=True)
class Change:
    """What became of one row, whose key is given as a list in JSON.

    `changed` has, by column, the old and the new value, as JSON knows them; None is
    NULL, or that there was no row.
    """

    action: Literal["insert", "update", "delete"]
    table_name: str
    row_key: str
    changed: Mapping[str, tuple[object, object]]


def diff(table: sa.Table, old: Row | None, new: Row | None) -> Change | None:
    """Return the change between rows, by column, with one key; None for no row.

    Where nothing changed, it returns None.
    """
    row = new if new is not None else old
    if row is None:
        return None
    changed = {}
    for column in (each for each in table.c if each in row):
        was, now = (None if each is None else each[column] for each in (old, new))
        if told := _told(column, was, now):
            changed[column.name] = told
    if not changed:
        return None
    key = [MASK if c.info.get("redacted") else row[c] for c in table.primary_key]
    text = _encoded(f"the key of {table.name}", key).decode()
    if old is None:
        return Change("insert", table.name, text, changed)
    return Change("delete" if new is None else "update", table.name, text, changed)


def _told(
    column: sa.Column[Any], old: object, new: object
) -> tuple[object, object] | None:
    if column.info.get("redacted"):
        masked = [None if value is None else MASK for value in (old, new)]
        return None if _form(old) == _form(new) else (masked[0], masked[1])
    was, now = (_encoded(str(column), value) for value in (old, new))
    return None if was == now else (_shortened(was), _shortened(now))


@cache
def _json() -> TypeAdapter[Any]:
    as_text = ConfigDict(ser_json_bytes="base64", ser_json_inf_nan="strings")
    return TypeAdapter(Any, config=as_text)


def _encoded(name: str, value: object) -> bytes:
    try:
        return _json().dump_json(value)
    except (ValueError, RecursionError):
        kind = type(value).__name__
        # Without the cause, whose message may quote the value.
        raise UnrecordedError(f"{name}: JSON cannot hold this {kind}") from None


def _form(value: object) -> object:
    """Return the JSON of a value, or the value itself if it has none."""
    try:
        return _encoded("", value)
    except UnrecordedError:
        return value


def _shortened(text: bytes) -> object:
    if len(text) > LONGEST_VALUE:
        return {"bytes": len(text), "sha256": sha256(text).hexdigest()}
    value: object = json.loads(text)
    return value
