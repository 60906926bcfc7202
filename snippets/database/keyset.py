"""Find the rows that come after a given one in an order with ties and NULLs.

The condition agrees with the order exactly: NULL counts as greater than every value, on
every database, and the primary key decides between equals. Where all fields go one way
and none may be NULL, an index on them starts at the very row; otherwise at the first of
those that share its first value, and where that may be NULL and the order ascends, at
the first of all. Compare values which the same `SortTerm` has read: they are what the
database compares, not what Python makes of it.

Source: https://use-the-index-luke.com/no-offset
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from snippets.database.filters import Condition, FieldError, field

ORDERED = (str, int, float, Decimal, date, time, timedelta, UUID, Enum)
"""What has an order and a form in JSON, unlike bytes, JSON and arrays."""


@dataclass(frozen=True, slots=True)
class SortTerm:
    """One field of an order."""

    column: InstrumentedAttribute[Any]
    descending: bool
    nullable: bool
    compared_as: sa.types.TypeEngine[Any]
    kind: type[object]
    """The Python type of what `stored` reads."""

    def stored(self) -> sa.ColumnElement[Any]:
        """Return the expression that reads the value as `after` needs it."""
        return self.comparable().label(f"sort_{self.column.key}")

    def comparable(self) -> sa.ColumnElement[Any]:
        """Return the column as the database compares it."""
        return sa.type_coerce(self.column, self.compared_as)

    def literal(self, value: object) -> sa.ColumnElement[Any]:
        """Return a value that `stored` read, to compare the column with."""
        return sa.literal(value, self.compared_as)

    def order(self) -> sa.ColumnElement[Any]:
        """Return the term of an ORDER BY, which says where NULL is if there can be."""
        term = self.column.desc() if self.descending else self.column.asc()
        if not self.nullable:
            return term
        return term.nulls_first() if self.descending else term.nulls_last()

    def backwards(self) -> "SortTerm":
        """Return the same field in the other direction, NULL included."""
        return replace(self, descending=not self.descending)


def sort_terms(
    model: type[object], order_by: str, dialect: sa.Dialect
) -> list[SortTerm]:
    """Return the terms of an order such as `-created_at,email`, then of the key.

    The key goes the way of the field before it, so that one index serves both ways. A
    field named twice counts once. One that is no column, or whose values are none of
    `ORDERED`, raises `FieldError`.
    """
    mapper = sa.inspect(model)
    keys = [mapper.get_property_by_column(key).key for key in mapper.primary_key]
    descending: dict[str, bool] = {}
    names = order_by.split(",") if order_by else []
    sign = "-" if order_by and names[-1].startswith("-") else ""
    for name in [*names, *(sign + key for key in keys)]:
        descending.setdefault(name.removeprefix("-"), name.startswith("-"))
    return [
        SortTerm(
            field(model, name),
            down,
            bool(mapper.columns[name].nullable),
            *_compared(model, name, dialect),
        )
        for name, down in descending.items()
    ]


def after(terms: Sequence[SortTerm], values: Sequence[object]) -> Condition:
    """Return the condition for the rows after the one that has these values."""
    ways = {term.descending for term in terms}
    if len(ways) == 1 and not any(term.nullable for term in terms):
        columns = sa.tuple_(*(term.comparable() for term in terms))
        bounds = sa.tuple_(*map(SortTerm.literal, terms, values))
        return columns < bounds if ways == {True} else columns > bounds
    rows: Condition = sa.false()
    for term, value in reversed([*zip(terms, values, strict=True)]):
        beyond, onward = _bounds(term, value)
        rows = sa.and_(onward, sa.or_(beyond, rows))
    return rows


def _bounds(term: SortTerm, value: object) -> tuple[Condition, Condition]:
    """Return the conditions for what comes after a value, and from it on."""
    column, bound = term.comparable(), term.literal(value)
    null = column.is_(None)
    if value is None and term.descending:
        return column.is_not(None), sa.true()
    if value is None:
        return sa.false(), null
    if term.descending:
        return column < bound, column <= bound
    if term.nullable:
        return sa.or_(column > bound, null), sa.or_(column >= bound, null)
    return column > bound, column >= bound


def _compared(
    model: type[object], name: str, dialect: sa.Dialect
) -> tuple[sa.types.TypeEngine[Any], type[object]]:
    """Return the type as which the database compares a field, and Python's for it."""
    stored = sa.inspect(model).columns[name].type.dialect_impl(dialect)
    while isinstance(stored, sa.types.TypeDecorator):
        stored = stored.impl_instance
    if isinstance(stored, sa.Numeric | sa.Float):
        # As it is, a Decimal of a float or a float of a Decimal would be a rounded one.
        stored = sa.Double() if isinstance(stored, sa.Float) else sa.Numeric()
    try:
        kind = stored.python_type
    except NotImplementedError:
        kind = object
    if not issubclass(kind, ORDERED):
        raise FieldError(model, name, "has no order")
    if dialect.name == "sqlite":
        # It compares what it stores: a time that it filled in itself has no fraction,
        # and a Decimal is a float. Neither equals its copy that went through Python.
        return sa.types.NullType(), object
    return stored, kind
