"""Turn fields and values named by a client into SQL conditions and an order.

A name reaches SQL only if the model maps it to a column; any other, be it a
relationship, a method or a misspelling, raises `FieldError`. A value is always a bound
parameter, and text to search for is escaped, so that it can match nothing but itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute


class FieldError(ValueError):
    """The `field` of a model is no column, or one that the caller may not write."""

    def __init__(self, model: type[object], field: str, problem: str) -> None:
        """Say which field of which model it is, and what is wrong with it."""
        printable = ascii(field)[1:-1]  # the name may hold a line break, for the log
        super().__init__(f"{model.__name__}.{printable} {problem}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Contains:
    """A value that matches where `text` occurs in the field, in either case."""

    text: str


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A filter that matches where at least one of `filters` does; of none, nowhere."""

    filters: Sequence["Filter"]


Condition: TypeAlias = sa.ColumnElement[bool]
"""An SQL expression that holds or not, written by a programmer, never by a client."""

Filter: TypeAlias = Mapping[str, object] | AnyOf | Condition
"""Fields that must all match their values, or alternatives, or a condition.

A value of None is IS NULL; a list, tuple or set matches where any of its members does.
"""


def field(model: type[object], name: str) -> InstrumentedAttribute[object]:
    """Return the attribute `name`; raise `FieldError` if it is not a mapped column."""
    if not isinstance(sa.inspect(model).columns.get(name), sa.Column):
        raise FieldError(model, name, "is not a column")
    attribute: InstrumentedAttribute[object] = getattr(model, name)
    return attribute


def where(model: type[object], given: Filter) -> Condition:
    """Return the condition that holds for the rows which match the filter."""
    if isinstance(given, AnyOf):
        return sa.or_(sa.false(), *(where(model, each) for each in given.filters))
    if isinstance(given, Mapping):
        pairs = ((field(model, name), value) for name, value in given.items())
        return sa.and_(sa.true(), *(_matches(*pair) for pair in pairs))
    return given


def order(model: type[object], by: str) -> list[sa.ColumnElement[object]]:
    """Return the order for a list of fields such as `-created_at,email`.

    A minus sign means descending. The primary key is always the last tie-break, so that
    every row has one place. A field named twice counts once: databases bound the terms.
    """
    terms: dict[str, sa.ColumnElement[object]] = {}
    for name in by.split(",") if by else ():
        term = field(model, bare := name.removeprefix("-"))
        terms.setdefault(bare, term.desc() if name.startswith("-") else term.asc())
    return [*terms.values(), *sa.inspect(model).primary_key]


def _matches(attribute: InstrumentedAttribute[object], value: object) -> Condition:
    if isinstance(value, Contains):
        return attribute.icontains(value.text, autoescape=True)
    if isinstance(value, list | tuple | set | frozenset):
        # NULL equals nothing, so IN alone would not find it.
        members = attribute.in_([member for member in value if member is not None])
        return sa.or_(members, attribute.is_(None)) if None in value else members
    return attribute == value
