"""Read out of a statement what SQLAlchemy's own iteration over it leaves out.

`raw_sql` is the text that is sent as it is: of `text()` and `literal_column()`, of
prefixes, suffixes and hints. `values_of` is what a write gives its columns, wherever
that is written, and `criteria_of` what relationships and options add to a query. Not
found is SQL in the name of an operator, a type or a field, or made by `@compiles`.

It reads attributes that SQLAlchemy does not document: run its tests at each upgrade.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.sql import visitors

Element: TypeAlias = Any
"""A statement or a part of one, of which more is used here than its type tells."""


def parts_of(*roots: Element) -> list[Element]:
    """Return what these consist of, themselves included; some may come twice."""
    return [*chain(*map(visitors.iterate, roots))]


def raw_sql(part: Element) -> Iterator[str]:
    """Yield what a part, without the parts below it, says in SQL of its own."""
    inside = vars(part)
    if isinstance(part, sa.TextClause):
        yield part.text
    if inside.get("is_literal"):
        yield part.name
    for affix, _ in (*inside.get("_prefixes", ()), *inside.get("_suffixes", ())):
        yield affix.text
    yield from inside.get("_hints", {}).values()
    for _, hint in inside.get("_statement_hints", ()):
        yield hint


def values_of(write: Element) -> Iterator[tuple[str, Element]]:
    """Yield what an INSERT or UPDATE says of each column, by the column's name.

    It is a plain value, `...` for what a query fills in, or else an expression.
    """
    inside = vars(write)
    yield from dict.fromkeys(inside.get("_select_names", ()), ...).items()
    upsert = inside.get("_post_values_clause")
    sets = {} if upsert is None else vars(upsert).get("update_values_to_set", {})
    for row in (
        inside.get("_values", {}),
        sets,
        *chain(*inside.get("_multi_values", ())),
    ):
        is_named = isinstance(row, Mapping)
        pairs = row.items() if is_named else zip(write.table.c, row, strict=False)
        for key, value in pairs:
            # One that was given a name may be replaced when the statement is sent.
            is_plain = isinstance(value, sa.BindParameter) and value.unique
            yield getattr(key, "key", key), value.effective_value if is_plain else value


def criteria_of(part: Element) -> Iterator[tuple[Element, tuple[object, ...] | None]]:
    """Yield the expressions that a part has beside those below it.

    Each comes with the tables whose rows it may read where it is put, if not any. They
    are in `and_()` of a relationship, in options, and among the rows of VALUES.
    """
    inside = vars(part)
    for target, *_ in inside.get("_setup_joins", ()):
        yield from ((one, None) for one in getattr(target, "_extra_criteria", ()))
    for option in inside.get("_with_options", ()):
        for load in getattr(option, "context", ()):
            for one in getattr(load, "_extra_criteria", ()):
                yield one, (load.path[-2].mapper.local_table,)
        if isinstance(one := getattr(option, "where_criteria", None), sa.ColumnElement):
            yield one, None
    for value in chain(*chain(*inside.get("_data", ()))):
        if isinstance(value, sa.ClauseElement):
            yield value, ()


def fully_joined(query: Element) -> list[Element]:
    """Return what a query with a FULL JOIN names, since ON holds back no row of it."""
    full = any(how["full"] for *_, how in vars(query).get("_setup_joins", ()))
    return [*map(rows_of, parts_of(query))] if full else []


def mapped_columns(*models: type) -> Iterator[tuple[Element, Sequence[sa.FromClause]]]:
    """Yield what all mappers of the models' registries select, with their tables."""
    for mapper in {*chain(*(orm.class_mapper(one).registry.mappers for one in models))}:
        for attribute in mapper.column_attrs:
            yield from ((column, mapper.tables) for column in attribute.columns)


def table_of(part: object) -> object:
    """Return the table of a column, a write or an alias; what has none is returned."""
    return unaliased(rows_of(part))


def rows_of(part: Element) -> Element:
    """Return the table or alias of a column or of a whole row that is one value."""
    return getattr(part, "scalar_alias", getattr(part, "table", part))


def unaliased(table: object) -> object:
    """Return what an alias, or a sample, also one of another, is one of."""
    while isinstance(table, sa.Alias | sa.TableSample):
        table = table.element
    return table
