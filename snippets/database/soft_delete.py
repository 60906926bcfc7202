"""Delete rows but keep them, hidden from each statement that does not ask for them.

In the sessions that `install_soft_delete` was told of, a deleted row is neither seen
nor changed, however the statement was written; `row_filter` names what it cannot reach.
A deletion is one UPDATE, and one more for each relationship that cascades deletes.
Deleting twice keeps the first time and actor. Not noticed is a deletion by another
transaction after the row was loaded, unless a version column makes the change fail.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.util import immutabledict

from snippets.database.conflict import write_or_conflict
from snippets.database.delete_as_update import DeleteAsUpdate, family, has_key
from snippets.database.row_filter import Condition, RowFilter, hiding

Model: TypeAlias = "type[SoftDeleteMixin]"

include_deleted: immutabledict[str, Any] = immutabledict(include_deleted=True)
"""Execution options: the statement sees and changes deleted rows too."""

only_deleted: immutabledict[str, Any] = immutabledict(only_deleted=True)
"""Execution options: the statement sees and changes nothing but deleted rows."""


class SoftDeleteMixin:
    """When and by whom a row was deleted; `live` is true or, if it was, NULL.

    Constraints overlook a NULL: a foreign key from a child's (parent's id, `live`) to
    its parent's unique (id, `live`) lets no live child have a deleted parent.
    """

    deleted_at: orm.Mapped[datetime | None] = orm.mapped_column(
        sa.DateTime(timezone=True), index=True
    )
    deleted_by: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    live: orm.Mapped[bool | None] = orm.mapped_column(
        sa.Computed("NULLIF(deleted_at IS NULL, false)", persisted=True), deferred=True
    )


def unique_live(name: str, *columns: str) -> sa.Index:
    """Return a unique index, for `__table_args__`, that overlooks deleted rows."""
    sql = sa.text("deleted_at IS NULL")
    return sa.Index(name, *columns, unique=True, sqlite_where=sql, postgresql_where=sql)


def install_soft_delete(
    sessions: async_sessionmaker[Any],
    *,
    actor: Callable[[], str | None],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Make the sessions created from now on, and no others, delete softly.

    Each deletion asks `actor` who deletes and `clock` for an aware time, once.
    """

    def stamp() -> Mapping[str, object]:
        return {"deleted_at": clock().astimezone(UTC), "deleted_by": actor()}

    base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
    own = hiding(base, _is_hidden)
    deletes = DeleteAsUpdate(SoftDeleteMixin, _is_live, stamp)
    sa.event.listen(own, "before_flush", _before_flush)  # sees rows before they go
    deletes.listen(own)
    sa.event.listen(own, "do_orm_execute", _filter)
    info = {**sessions.kw.get("info", {}), "soft_delete": deletes}
    sessions.configure(sync_session_class=own, info=info)


async def soft_delete(session: AsyncSession, model: Model, key: object) -> bool:
    """Delete a row by its primary key; return whether it was live until now."""
    deletes = session.info.get("soft_delete")
    if not isinstance(deletes, DeleteAsUpdate):
        raise TypeError("install_soft_delete() was not told of this session")
    statement = sa.delete(model).where(*has_key(model, key))
    result = await session.run_sync(deletes.delete, statement, None, include_deleted)
    return cast("sa.CursorResult[Any]", result).rowcount == 1


async def restore(session: AsyncSession, model: Model, key: object) -> bool:
    """Bring back a row and what was deleted with it; return whether it was deleted.

    Raises `ConflictError`, restoring nothing, if its place is taken or parent deleted.
    """
    where = has_key(model, key)
    raw: Any = sa.types.NULLTYPE  # SQLite's own clock writes a time without a fraction
    query = sa.select(sa.type_coerce(model.deleted_at, raw)).where(*where)
    when = await session.scalar(query, execution_options=include_deleted)
    if when is None:
        return False
    everywhere = family(SoftDeleteMixin, model, where, lambda _: sa.true())
    async with session.begin_nested():
        for each, its in reversed([*everywhere]):
            back = sa.update(each).values(deleted_at=None, deleted_by=None)
            back = back.where(*its, sa.type_coerce(each.deleted_at, raw) == when)
            back = back.returning(each).execution_options(**include_deleted)
            if not await write_or_conflict(session, each, back) and each is model:
                return False  # somebody was faster
    return True


async def purge(session: AsyncSession, model: Model, *where: Condition) -> int:
    """Remove matching deleted rows for good, children first; return how many went."""
    statement = sa.delete(model).where(*where).execution_options(physical=True)
    result = await session.execute(statement, execution_options=include_deleted)
    return cast("sa.CursorResult[Any]", result).rowcount


def _is_live(row: Model) -> Condition:
    return row.deleted_at.is_(None)


def _is_deleted(row: Model) -> Condition:
    return row.deleted_at.is_not(None)


_LIVE = RowFilter(SoftDeleteMixin, _is_live)
_DELETED = RowFilter(SoftDeleteMixin, _is_deleted)


def _filter(state: orm.ORMExecuteState) -> None:
    if state.execution_options.get("only_deleted"):
        _DELETED.apply(state)
    elif not state.execution_options.get("include_deleted"):
        _LIVE.apply(state)


def _is_hidden(row: object, options: Mapping[str, Any]) -> bool:
    if not isinstance(row, SoftDeleteMixin) or options.get("include_deleted"):
        return False
    when = vars(row).get("deleted_at", ...)  # which may not be loaded
    return when is ... or (when is not None) != options.get("only_deleted", False)


def _before_flush(session: orm.Session, *_: object) -> None:
    for row in session.new:
        if isinstance(row, SoftDeleteMixin):  # only what is set is kept up to date
            row.deleted_at, row.deleted_by = row.deleted_at, row.deleted_by
    for row in (*session.dirty, *session.deleted):
        changed = isinstance(row, SoftDeleteMixin) and session.is_modified(row)
        if changed and any(sa.inspect(row).attrs.deleted_at.history.sum()):
            raise sa.exc.InvalidRequestError("a deleted row is not changed: restore it")
