"""Tell, row by row, what a flush changed: the action and the old and new values.

The rows are read from the database before the flush writes them, and locked where it
can lock, and again after. So what is told is what happened, also where the session had
not loaded the old value or held a stale one. A row that comes out as it was is not told
of. A relationship that writes without an event is refused, and a new row that its key
does not find again. Not seen is what the database does by itself, in a trigger or an
ON DELETE, and what is done by a class without the mixin on the same table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event, orm

from snippets.database.row_diff import Change, Row, UnrecordedError, diff
from snippets.database.row_filter import models_of, shares_name

READ_AT_ONCE = 1_000

Key: TypeAlias = tuple[object, ...]
Given: TypeAlias = Mapping[str, Any] | None
Record: TypeAlias = Callable[[orm.Session, Sequence[Change]], None]


class AuditedMixin:
    """A model, with one table to itself, of whose rows each change is told."""


@dataclass(eq=False)
class Watch:
    """The rows that one write may change, as they were before it; None if it is new."""

    session: orm.Session
    rows: dict[sa.Table, dict[Key, Row | None]] = field(default_factory=dict)

    def add(self, table: sa.Table, keys: Iterable[Key]) -> None:
        """Read and lock the rows with these keys, unless they are watched already."""
        known = self.rows.setdefault(table, {})
        known |= self._read(table, [key for key in keys if key not in known], lock=True)

    def changes(self) -> list[Change]:
        """Return what became of the rows; no other watch will tell it again."""
        found: list[Change | None] = []
        for table, before in self.rows.items():
            after = self._read(table, [*before], lock=False)
            if any(old is None and key not in after for key, old in before.items()):
                raise UnrecordedError(f"{table.name}: a key is read in another form")
            for other in {*watches(self.session)} - {self}:
                kept = other.rows.get(table, {}).items()
                other.rows[table] = {k: v for k, v in kept if k not in before}
                other.rows[table] |= after
            found += (diff(table, old, after.get(key)) for key, old in before.items())
        return [change for change in found if change]

    def _read(self, table: sa.Table, keys: list[Key], *, lock: bool) -> dict[Key, Row]:
        found: dict[Key, Row] = {}
        for start in range(0, len(keys), READ_AT_ONCE):
            these = keys[start : start + READ_AT_ONCE]
            query = rows_of(table, sa.tuple_(*table.primary_key).in_(these))
            query = query.with_for_update(of=table) if lock else query
            found |= by_key(self.session, table, query)
        return found


def watches(session: orm.Session) -> list[Watch]:
    """Return the writes in progress: the flush, then statements within each other."""
    found: list[Watch] = session.info.setdefault("watches", [Watch(session)])
    return found


def rows_of(table: sa.Table, where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return a query for all that is stored in rows, in the order of their keys."""
    columns = [column for column in table.c if column.computed is None]
    return sa.select(*columns).where(where).order_by(*table.primary_key)


def by_key(
    session: orm.Session, table: sa.Table, query: sa.Select[Any], given: Given = None
) -> dict[Key, Row]:
    """Return the rows of such a query under their keys, whatever the session hides."""
    rows = session.connection({"clause": table}).execute(query, given).mappings()
    return {tuple(row[part] for part in table.primary_key): row for row in rows}


def table_of(mapper: orm.Mapper[Any]) -> sa.Table:
    """Return the table that a model has to itself; refuse a model that has several."""
    table = mapper.local_table
    if not isinstance(table, sa.Table) or len(mapper.tables) > 1:
        raise UnrecordedError(f"{mapper.class_.__name__} has no table to itself")
    return table


def tell_flushes(session_class: type[orm.Session], record: Record) -> None:
    """Give `record` what each flush of a class's sessions does to audited rows.

    If it raises, the flush fails and is rolled back. The sessions' bulk methods, which
    tell nobody of their rows, are refused; a bulk statement takes their place.
    """

    def begin(session: orm.Session, *_: object) -> None:
        watches(session)[0] = Watch(session)

    def end(session: orm.Session, _: object) -> None:
        watch = watches(session)[0]
        for row in session.new:
            if isinstance(row, AuditedMixin):
                mapper = orm.object_mapper(row)
                key = tuple(mapper.primary_key_from_instance(row))
                watch.rows.setdefault(table_of(mapper), {}).setdefault(key, None)
        if changes := watch.changes():
            record(session, changes)

    event.listen(session_class, "before_flush", begin)
    event.listen(session_class, "after_flush", end)
    for name in ("before_insert", "before_update", "before_delete"):
        if not event.contains(orm.Mapper, name, _before_row):  # it is for all classes
            event.listen(orm.Mapper, name, _before_row)
    for name in ("bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"):
        setattr(session_class, name, _refuse)


def _before_row(mapper: orm.Mapper[Any], _: object, row: object) -> None:
    session = orm.object_session(row)
    if session is None or "watches" not in session.info:  # somebody else's session
        return
    for each in mapper.relationships:
        ends = [mapper.local_table, each.mapper.local_table] if each.post_update else []
        ends += [] if each.secondary is None or each.viewonly else [each.secondary]
        tables = models_of(AuditedMixin) if ends else {}
        if any(shares_name(end, tables) for end in ends):
            raise UnrecordedError(f"{each} writes rows of which no event tells")
    if not isinstance(row, AuditedMixin):
        return
    table, watch, state = table_of(mapper), watches(session)[0], sa.inspect(row)
    key = tuple(mapper.primary_key_from_instance(row))
    if state.identity not in (None, key):
        raise UnrecordedError(f"a primary key of {table.name} may not change")
    # The first row brings along all that the session knows of, in one SELECT.
    others = () if table in watch.rows else (*session.dirty, *session.deleted)
    states = [sa.inspect(each) for each in (*others, row)]
    same = [each.identity for each in states if each.mapper.local_table is table]
    watch.add(table, filter(None, same))


def _refuse(*_: object, **__: object) -> None:
    raise UnrecordedError("bulk methods tell nobody of their rows: send a statement")
