"""Let the second of two writers fail where it would undo what the first one changed.

Each row has a version. The unit of work changes or deletes a row only at the version it
was loaded at, and an UPDATE that is given a `version` only at that one; otherwise
`StaleDataError` is raised, and the transaction must be rolled back. A row that was
deleted meanwhile is a conflict too; not even `Session.merge` inserts it again.

Whatever changes a row advances its version, but a bulk statement that is not given the
version it expects checks none. Raw SQL does neither, and a write within a statement is
refused. A change of related rows leaves the version as it is.

Source: https://docs.sqlalchemy.org/en/21/orm/versioning.html
"""

import secrets
from functools import partial
from itertools import chain
from typing import Any, ClassVar, cast

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql import visitors

STEP_BITS = 24


def _step() -> int:
    """Return how far a version advances; it has room for 2**39 such steps.

    Random steps tell apart what is one change away from the same version: a row deleted
    and made anew under its key; what a session holds and what another one has changed.
    """
    return 1 + secrets.randbits(STEP_BITS)


def _next(version: int | None) -> int:
    return (version or 0) + _step()


class VersionMixin:
    """The version of each row, for a model that has one table to itself."""

    version: orm.Mapped[int] = orm.mapped_column(
        sa.BigInteger,
        default=_step,
        onupdate=sa.column("version")
        + sa.bindparam(None, callable_=_step, type_=sa.BigInteger),
        info={"optimistic_lock": True},
    )
    __mapper_args__: ClassVar[dict[str, Any]] = {
        "version_id_col": version,
        "version_id_generator": _next,
    }
    """A model with arguments of its own must repeat these."""


def install_optimistic_lock(sessions: async_sessionmaker[Any]) -> None:
    """Make the sessions created from now on check the versions that they are given.

    An UPDATE that is given one must change exactly one row. Install the audit mixin
    first, or it takes each new version for a change.
    """
    base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
    own = type(base.__name__, (base,), {})
    event.listen(own, "before_flush", _before_flush)
    event.listen(own, "do_orm_execute", _before_statement)
    sessions.configure(sync_session_class=own)


async def delete_unchanged(session: AsyncSession, row: VersionMixin) -> None:
    """Delete a row if it is as it was loaded; otherwise raise `StaleDataError`.

    Unlike `AsyncSession.delete`, it checks the version in a soft deletion too.
    """
    await session.flush()
    model, state = type(row), sa.inspect(row)
    key = zip(state.mapper.primary_key, state.identity, strict=True)
    is_it = *(column == value for column, value in key), model.version == row.version
    statement = sa.delete(model).where(*is_it)
    await session.run_sync(lambda sync: _one_row(statement, sync.execute(statement)))


def _before_flush(session: orm.Session, *_: object) -> None:
    for row in (*session.new, *session.dirty, *session.deleted):
        if not isinstance(row, VersionMixin):
            continue
        name, state = type(row).__name__, sa.inspect(row)
        if state.mapper.version_id_col is None:
            raise TypeError(f"{name} lacks the __mapper_args__ of VersionMixin")
        if state.attrs.version.history.added:
            if row in session.new:
                raise StaleDataError(f"a {name} that was read is no longer there")
            raise InvalidRequestError("version is for the optimistic lock to set")


def _before_statement(state: orm.ORMExecuteState) -> sa.Result[Any] | None:
    whole: Any = state.statement
    statement = getattr(whole, "element", whole)  # it may be within from_statement()
    found = [e for e in visitors.iterate(whole) if isinstance(e, sa.Insert | sa.Update)]
    if not any(map(_is_versioned, found)):
        return None
    if found != [statement]:
        raise InvalidRequestError("send this write by itself, or its version is lost")
    model = statement.entity_description.get("entity")
    version = (statement.table.c if model is None else model).version
    if state.is_insert:
        advance = {"on_conflict_do_update": partial(_advance, version)}
        state.statement = visitors.cloned_traverse(whole, {}, advance)
        return None
    given = state.parameters or {}
    rows = [given] if isinstance(given, dict) else given
    values = vars(statement).get("_values") or {}
    keys = {getattr(key, "key", key): key for key in values}
    by_key = model is not None and rows is given
    if by_key or "version" in chain(*rows, keys if statement is not whole else ()):
        raise InvalidRequestError("give the version of one row, and in values()")
    key = keys.get("version", "version")
    if key in values:
        expected = getattr(values[key], "effective_value", values[key])
        step = statement.where(version == expected).values({key: version + _step()})
        return _one_row(statement, state.invoke_statement(step))
    if statement is whole:  # within from_statement() the column advances by itself
        state.statement = statement.values(version=version + _step())
    return None


def _is_versioned(write: sa.Insert | sa.Update) -> bool:
    table: Any = getattr(write.table, "element", write.table)  # which may be an alias
    return "optimistic_lock" in getattr(table.c.get("version"), "info", ())


def _one_row(statement: sa.UpdateBase, result: sa.Result[Any]) -> sa.Result[Any]:
    if vars(statement).get("_returning"):
        frozen = result.freeze()
        result, changed = frozen(), len(frozen.data)
    else:
        changed = cast("sa.CursorResult[Any]", result).rowcount
    if changed != 1:
        raise StaleDataError(f"{changed} rows, not 1, were at the version expected")
    return result


def _advance(version: sa.ColumnElement[int], upsert: object) -> None:
    sets = vars(upsert)["update_values_to_set"]  # for which `onupdate` does nothing
    if "version" in (getattr(key, "key", key) for key in sets):
        raise InvalidRequestError("an upsert checks no version")
    vars(upsert)["update_values_to_set"] = {**sets, "version": version + _step()}
