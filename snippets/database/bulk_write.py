"""Insert or upsert many rows in few statements, all of them or none.

Defaults of columns apply, so that an audit mixin and a tenant column fill themselves.
Batches, errors and cancellation are as in `row_batches`. Validators and mapper events
do not run, and instances that the session holds stay as they are.

An insert reads its rows batch by batch. An upsert sorts all by key: two of the same
keys in different orders would deadlock, as two calls in one transaction still can.

Source: https://www.postgresql.org/docs/15/sql-insert.html#SQL-ON-CONFLICT and
https://www.sqlite.org/lang_upsert.html
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.database.conflict import UNIQUE
from snippets.database.filters import FieldError, field
from snippets.database.row_batches import Placed, all_or_nothing, send_in_batches

Rows: TypeAlias = Iterable[Mapping[str, object]]
Where: TypeAlias = sa.ColumnElement[bool] | None


async def bulk_insert(
    session: AsyncSession,
    model: type[object],
    rows: Rows,
    *,
    returning: Sequence[str] = (),
    batch_size: int = 1000,
) -> list[tuple[Any, ...]]:
    """Insert rows; return the fields `returning` of each, in the input's order.

    All rows have the same fields, and none has None for a primary key. Raises
    `RowConflictError`, `FieldError` for what is no column, `ValueError` for other rows.
    """
    insert, placed = sa.insert(_table(model)), _placed(model, rows)
    if returning:
        wanted = _columns(model, returning)
        insert = insert.returning(*wanted, sort_by_parameter_order=True)
    stored = await send_in_batches(session, model, insert, placed, size=batch_size)
    return [tuple(row) for row in stored]


async def upsert(
    session: AsyncSession,
    model: type[object],
    rows: Rows,
    *,
    on: Sequence[str],
    returning: Sequence[str] = (),
) -> list[tuple[Any, ...]]:
    """Insert rows, or update where `on` is taken all fields but these and the key.

    Of rows alike in `on`, as Python compares them, the last counts for all. A unique
    constraint is on just these fields: with `tenant_id` if the model has it, lest a
    tenant overwrite another's row, and only on live rows if it has `deleted_at`.
    """
    table, dialect = _table(model), session.get_bind(model).dialect.name
    target, where = _columns(model, on), _predicate(model, on, dialect)
    placed = [*_placed(model, rows, on)]
    if not placed:
        return []
    given = placed[0][1].keys()
    for name, column in zip(on, target, strict=True):
        if column.key not in given and not (name == "tenant_id" and column.default):
            raise FieldError(model, name, "is in the target and in no row")
    known = [column for column in target if column.key in given]
    keys = [tuple(values[column.key] for column in known) for _, values in placed]
    latest = dict(zip(keys, placed, strict=True))
    insert: postgresql.Insert | sqlite.Insert = postgresql.insert(table)
    if dialect == "sqlite":
        insert = sqlite.insert(table)
    fixed = {column.key for column in (*target, *table.primary_key)}
    # Something has to be updated, for else the row that is there would not return.
    sets = [key for key in given if key not in fixed] or [target[0].key]
    new = {name: insert.excluded[name] for name in sets}
    write: sa.Insert = insert.on_conflict_do_update(
        index_elements=target, index_where=where, set_=new
    )
    ordered = (latest[key] for key in sorted(latest))
    if not returning:
        await send_in_batches(session, model, write, ordered)
        return []
    write = write.returning(*known, *_columns(model, returning))
    async with all_or_nothing(session, model):
        stored = await send_in_batches(session, model, write, ordered)
        # They come in no certain order; the key tells which is whose.
        found = {row[: len(known)]: row[len(known) :] for row in map(tuple, stored)}
        if found.keys() != latest.keys():
            raise ValueError("a key came back in another form, so its row is unknown")
    return [found[key] for key in keys]


def _table(model: type[object]) -> sa.Table:
    mapper = sa.inspect(model)
    table = mapper.local_table
    alone = mapper.polymorphic_on is None and len(mapper.tables) == 1
    if not alone or not isinstance(table, sa.Table):
        raise TypeError(f"{model.__name__} does not have one table to itself")
    return table


def _columns(model: type[object], names: Iterable[str]) -> list[sa.Column[Any]]:
    return [sa.inspect(model).columns[field(model, name).key] for name in names]


def _placed(
    model: type[object], rows: Rows, on: Sequence[str] = ()
) -> Iterator[Placed]:
    """Yield each row by its columns' keys, with its place."""
    keys: dict[str, str] = {}
    needed: list[str] = []
    same = True
    for place, row in enumerate(rows):
        if not place:
            columns = dict(zip(row, _columns(model, row), strict=True))
            keys = {name: column.key for name, column in columns.items()}
            needed = [n for n in row if n in on or columns[n].primary_key]
            same = [*keys] == [*keys.values()]
        if row.keys() != keys.keys():
            raise ValueError(f"row {place} does not have the fields of row 0")
        if needed and None in [row[name] for name in needed]:
            raise ValueError(f"row {place} has None in a key")
        yield place, dict(row) if same else {keys[name]: row[name] for name in keys}


def _predicate(model: type[object], on: Sequence[str], dialect: str) -> Where:
    """Return the condition of the unique index on these fields, if it has one."""
    table, columns = _table(model), set(_columns(model, on))
    fields = sa.inspect(model).columns
    if "tenant_id" in fields and "tenant_id" not in on:
        raise FieldError(model, "tenant_id", "must be in the conflict target")
    found: list[Where] = [
        index.dialect_kwargs.get(f"{dialect}_where")
        for index in table.indexes
        if index.unique and set(index.expressions) == columns
    ]
    rules = (rule for rule in table.constraints if isinstance(rule, UNIQUE))
    found += [None for rule in rules if set(rule.columns) == columns]
    if "deleted_at" in fields:
        found = [where for where in found if where is not None]
    if not found:
        raise ValueError(f"{model.__name__} has no unique constraint for this target")
    return found[0]
