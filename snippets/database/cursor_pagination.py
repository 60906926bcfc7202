"""Page through many rows so that each is seen once, however many come and go meanwhile.

A page starts where the last one ended, not after a count of rows. Only a row whose own
sort value changes during the walk may be met twice or missed. A cursor is signed and
bound to model, order, filters and scope; any other raises `CursorError`. It is not
encrypted: a client can read its sort values. A new secret or an upgrade may void it.

Source: https://use-the-index-luke.com/no-offset
"""

import base64
import hmac
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, Generic, TypeAlias, TypeVar

import sqlalchemy as sa
from pydantic import ConfigDict, TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.database.filters import Filter, where
from snippets.database.keyset import after, sort_terms

MAX_LIMIT = 100
MAX_CURSOR_CHARACTERS = 2000
MIN_SECRET_BYTES = 32

# Infinity is not null, nor on SQLite, whose values have no type, a text of that name.
EXACT: ConfigDict = {"ser_json_inf_nan": "constants", "allow_inf_nan": True}

T = TypeVar("T")
Position: TypeAlias = tuple[bool, tuple[Any, ...]]
"""Whether to go backwards, and the sort values to start after: none from an end."""


class CursorError(ValueError):
    """The cursor was not made by this service for this list."""


@dataclass(frozen=True, slots=True)
class CursorPage(Generic[T]):
    """Some rows in order, and the cursors of the pages on both sides, or None."""

    items: Sequence[T]
    next_cursor: str | None
    previous_cursor: str | None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a client asks for: an order such as `-created_at,email`, a limit, a place.

    The order ends with the primary key. NULL counts as greater than every value.
    """

    order_by: str = ""
    limit: int = MAX_LIMIT
    cursor: str | None = None


async def cursor_page(
    session: AsyncSession,
    model: type[T],
    *filters: Filter,
    request: PageRequest,
    secret: bytes,
    scope: str,
) -> CursorPage[T]:
    """Return the page that a cursor leads to, or the first, with one statement.

    `scope` says for whom the list is, such as a tenant; it narrows nothing. A limit out
    of 1 to `MAX_LIMIT` and a secret below `MIN_SECRET_BYTES` raise `ValueError`, an
    unknown field `FieldError`.
    """
    if not 1 <= request.limit <= MAX_LIMIT or len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"limit is not 1 to {MAX_LIMIT}, or the secret is too short")
    dialect = session.get_bind(sa.inspect(model)).dialect
    terms = sort_terms(model, request.order_by, dialect)
    # Sort values are read beside the row, which the session may hold as it was before.
    query: sa.Select[Any] = sa.select(model, *(term.stored() for term in terms))
    query = query.where(*(where(model, each) for each in filters))
    context = _context(
        scope, query.order_by(*(term.order() for term in terms)), dialect
    )

    backward, values = False, tuple[Any, ...]()
    if request.cursor is not None:
        kinds = [term.kind for term in terms]
        backward, values = decode_cursor(request.cursor, secret, context, kinds)
    if backward:
        terms = [term.backwards() for term in terms]
    if values:
        query = query.where(after(terms, values))
    query = query.order_by(*(term.order() for term in terms)).limit(request.limit + 1)
    found = (await session.execute(query)).all()
    rows = found[: request.limit][:: -1 if backward else 1]

    # Whence the cursor came there was a row; if none is here, return from the end.
    more, origin = len(found) > request.limit, bool(values)
    has_previous, has_next = (more, origin) if backward else (origin, more)
    first, last = (tuple(rows[0][1:]), tuple(rows[-1][1:])) if rows else ((), ())
    return CursorPage(
        [row[0] for row in rows],
        encode_cursor((False, last), secret, context) if has_next else None,
        encode_cursor((True, first), secret, context) if has_previous else None,
    )


def encode_cursor(position: Position, secret: bytes, context: str) -> str:
    """Return a signed cursor; values too long for one raise `ValueError`."""
    content = TypeAdapter(Position, config=EXACT).dump_json(position)
    cursor = _signed(content, secret, context)
    if len(cursor) > MAX_CURSOR_CHARACTERS:
        raise ValueError("the sort values are too long for a cursor")
    return cursor


def decode_cursor(
    cursor: str, secret: bytes, context: str, kinds: Iterable[type]
) -> Position:
    """Return what was encoded, None or of these kinds, or raise `CursorError`."""
    values: Any = GenericAlias(tuple, tuple(kind | None for kind in kinds))
    with suppress(ValueError):  # no base64, or the type of a column was changed since
        short = cursor[: MAX_CURSOR_CHARACTERS + 1]
        content = base64.urlsafe_b64decode(short + "=" * (-len(short) % 4))[32:]
        # Comparing the texts, not the bytes, leaves one way only to write a cursor.
        signed = _signed(content, secret, context)
        if hmac.compare_digest(signed.encode(), cursor.encode()):
            kept = tuple[bool, values | tuple[()]]
            return TypeAdapter(kept, config=EXACT).validate_json(content)
    raise CursorError("the cursor is not valid here")


def _context(scope: str, query: sa.Select[Any], dialect: sa.Dialect) -> str:
    compiled = query.compile(dialect=dialect)
    # The members of a set come in another order in each process.
    values = {
        name: sorted(map(repr, value)) if isinstance(value, list) else [repr(value)]
        for name, value in compiled.params.items()
    }
    return repr((scope, str(compiled), sorted(values.items())))


def _signed(content: bytes, secret: bytes, context: str) -> str:
    # The context is hashed by itself, so that no part of it can pass for content.
    about = hmac.digest(secret, context.encode(), "sha256")
    signature = hmac.digest(secret, about + content, "sha256")
    return base64.urlsafe_b64encode(signature + content).decode().rstrip("=")
