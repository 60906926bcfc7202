"""Tell, row by row, what an INSERT, UPDATE or DELETE changed that a session sent.

An UPDATE or DELETE finds its rows first, locks them where the database can lock, and
changes those and no others: a row that comes to match meanwhile is left as it is. What
cannot be told is refused and not sent: an upsert, a write within another statement, in
`text()` or DDL, or to a table's double such as `sa.table()`, a list of parameters
unless it inserts, or updates by key. Not noticed is what a function or a view writes,
and `session.connection()`. What is pending is flushed; then a savepoint takes a
statement back if telling fails, from the instances in the session too.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.sql import visitors

from snippets.database.row_changes import (
    AuditedMixin,
    Key,
    Record,
    Watch,
    by_key,
    rows_of,
    table_of,
    watches,
)
from snippets.database.row_diff import UnrecordedError
from snippets.database.row_filter import models_of, shares_name

MOST_ROWS = 10_000
"""What one UPDATE or DELETE may find, or half as many if the key has two columns."""
WRITES = re.compile(r"(?i)\b(insert|update|delete|merge|replace|truncate|copy)\b")


def tell_statements(session_class: type[orm.Session], record: Record) -> None:
    """Give `record` what each statement of a class's sessions does to audited rows.

    If it raises, the statement is rolled back. The result of an INSERT lacks
    `sqlalchemy.CursorResult.inserted_primary_key`: ask for RETURNING.
    """

    def execute(state: orm.ORMExecuteState) -> sa.Result[Any] | None:
        if state.is_column_load or state.is_relationship_load:
            return None
        table = _target(state)
        return None if table is None else _tell(state, table, record)

    event.listen(session_class, "do_orm_execute", execute)


def _target(state: orm.ORMExecuteState) -> sa.Table | None:
    """Return the audited table that a statement writes to; refuse what is not clear."""
    statement: Any = state.statement
    models = models_of(AuditedMixin)
    parts = visitors.iterate(statement)
    writes = [part for part in parts if writes_to(part, models)]
    if not writes:
        return None
    if writes != [statement] or not isinstance(statement, sa.UpdateBase):
        raise UnrecordedError("send this write by itself, not as a part or as text")
    if statement.table not in models:
        raise UnrecordedError("write to the model or its table, and to no other")
    if vars(statement).get("_prefixes"):
        raise UnrecordedError("a prefix such as OR REPLACE can change other rows")
    conflict = vars(statement).get("_post_values_clause")
    if conflict is not None and "do_update" in conflict.__visit_name__:
        raise UnrecordedError("an upsert does not tell what it replaces")
    return table_of(orm.class_mapper(models[statement.table]))


def writes_to(part: object, tables: Collection[sa.Table]) -> bool:
    """Return whether a part of a statement writes to one of the tables, or may."""
    if isinstance(part, sa.UpdateBase):
        inner = visitors.iterate(part.table)  # which may be an alias
        return any(shares_name(each, tables) for each in inner)
    text = part.text if isinstance(part, sa.TextClause) else ""
    text = part.statement.casefold() if isinstance(part, sa.DDL) else text.casefold()
    taken = (table.name.casefold() for table in tables)
    return bool(WRITES.search(text)) and any(name in text for name in taken)


def _tell(
    state: orm.ORMExecuteState, table: sa.Table, record: Record
) -> sa.Result[Any] | None:
    session = state.session
    with session.begin_nested():
        watches(session).append(watch := Watch(session))
        try:
            send = _insert if state.is_insert else _change
            result = send(state, table, watch)
            changes = watch.changes()
            if state.is_update and any(each.action == "delete" for each in changes):
                raise UnrecordedError(f"a primary key of {table.name} may not change")
            if changes:
                record(session, changes)
        finally:
            watches(session).remove(watch)
    return result


def _insert(
    state: orm.ORMExecuteState, table: sa.Table, watch: Watch
) -> sa.Result[Any]:
    statement: Any = state.statement
    key = [*table.primary_key]
    result = state.invoke_statement(statement=statement.returning(*key))
    frozen = result.freeze()
    rows = frozen().all()
    watch.rows[table] = {tuple(row[-len(key) :]): None for row in rows}
    returned = len(frozen().keys()) - len(key)
    return frozen().columns(*range(returned)) if returned else result


def _change(
    state: orm.ORMExecuteState, table: sa.Table, watch: Watch
) -> sa.Result[Any]:
    statement: Any = state.statement
    values = state.parameters
    if isinstance(values, Sequence):
        keys = [*_keys(state, values)]
        watch.add(table, keys)
        if not watch.rows[table].keys() >= {*keys}:
            raise UnrecordedError(f"{table.name} lacks a row that is to be updated")
        return state.invoke_statement()
    where = sa.true() if statement.whereclause is None else statement.whereclause
    most = MOST_ROWS // len(table.primary_key)  # PostgreSQL bears some 7,000 pairs
    query = rows_of(table, where).limit(most + 1).with_for_update(of=table)
    rows = by_key(watch.session, table, query, values)
    if len(rows) > most:
        raise UnrecordedError(f"more than {most:,} rows: send it in parts")
    watch.rows[table] = {**rows}
    key: list[Any] = [*table.primary_key]
    if mapper := state.bind_mapper:  # so that the session can compare its instances
        key = [mapper.get_property_by_column(c).class_attribute for c in key]
    these = sa.tuple_(*key).in_([*rows])
    return state.invoke_statement(statement=statement.where(these))


def _keys(
    state: orm.ORMExecuteState, values: Sequence[Mapping[str, Any]]
) -> Iterator[Key]:
    """Yield the keys that a bulk UPDATE names its rows by."""
    mapper = state.bind_mapper
    if mapper is None or not state.is_update:
        raise UnrecordedError("a list of parameters inserts, or updates by key")
    parts = [mapper.get_property_by_column(c).key for c in mapper.primary_key]
    yield from (tuple(row[part] for part in parts) for row in values)
