"""Give each unit of work a session that commits, rolls back and closes by itself.

The connection is back in the pool before the caller goes on: after success, after an
exception, after a cancellation and after a second one during the clean-up. To any task
but the one that opened a scope, its session refuses whatever reaches the database, or
ends the transaction; it does not see what only changes objects in memory. What is not
done: a failed unit of work is not tried again, and when a commit is cancelled or its
connection lost while it is under way, only the database knows whether it took place.

Source: https://docs.sqlalchemy.org/en/21/orm/extensions/asyncio.html
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any, Self

from fastapi import Depends, Request
from sqlalchemy import URL, Connection, ExceptionContext, event, orm
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import ConnectionPoolEntry

OWNERS_ONLY = """begin close connection get_nested_transaction get_transaction
invalidate reset rollback"""
"""The methods of a session that have no event which comes early enough."""

relationship = partial(orm.relationship, lazy="raise")
"""A relationship that is loaded by a query's options, or raises when it is read."""


class SharedSessionError(RuntimeError):
    """A second task used a session; it needs a scope of its own."""


class OwnedAsyncSession(AsyncSession):
    """A session that belongs to the task which enters its block."""

    async def __aenter__(self) -> Self:
        """Refuse the block to a second task, which would close the session."""
        self.info.update(owner=_admit(self.sync_session), is_open=True)
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        """Close the session, in a task that a cancellation does not reach."""
        self.info["is_open"] = False
        await super().__aexit__(*error)


def create_engine_and_sessions(
    url: str | URL, **options: object
) -> tuple[AsyncEngine, async_sessionmaker[AsyncSession]]:
    """Return an engine on `url` and the factory of its sessions; connect to nothing.

    `options` are those of `create_async_engine`. An instance stays readable after the
    commit, and a closed session stays closed. SQLite is made to enforce foreign keys,
    and to keep a savepoint inside its transaction. SQLAlchemy quotes no parameter in an
    error or a log record, unless `hide_parameters` is false; a database still may.
    """
    engine = create_async_engine(url, **{"hide_parameters": True, **options})
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_on_sqlite)
        event.listen(engine.sync_engine, "handle_error", close_cancelled_cursor)

    # A class of this factory's own, so that its listeners reach no other.
    owned = type("OwnedSession", (orm.Session,), dict(map(_owned, OWNERS_ONLY.split())))
    event.listen(owned, "do_orm_execute", lambda state: _own(state.session))
    event.listen(owned, "before_flush", lambda session, *_: _own(session))
    event.listen(owned, "before_commit", _own)
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(
        engine,
        class_=OwnedAsyncSession,
        sync_session_class=owned,
        expire_on_commit=False,
        close_resets_only=False,
    )
    return engine, sessions


@asynccontextmanager
async def session_scope(
    sessions: async_sessionmaker[AsyncSession],
) -> AsyncIterator[AsyncSession]:
    """Yield a session; commit when the block ends, roll back however else it is left.

    A scope in which nothing was asked of the database takes no connection. Raises what
    the block raises, or what the commit does.
    """
    # Not `sessions.begin()`: that one commits in a task which is not the owner.
    async with sessions() as session, session.begin():
        yield session


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield the session of one request, from `app.state.sessions`."""
    async with session_scope(request.app.state.sessions) as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
"""The parameter of an endpoint; its commit comes before the response is sent."""


def close_cancelled_cursor(error: ExceptionContext) -> None:
    """Close, at `handle_error`, what would keep an SQLite file locked for a while."""
    cancelled = isinstance(error.original_exception, asyncio.CancelledError)
    if cancelled and error.execution_context:
        with suppress(ValueError):  # the connection is closed already
            error.execution_context.cursor.close()


def _own(session: orm.Session) -> None:
    session.info["owner"] = _admit(session)  # for as long as that task lives


def _admit(session: orm.Session) -> asyncio.Task[object] | None:
    task = asyncio.current_task()
    owner = session.info.get("owner")
    if owner is not None and owner is not task and not owner.done():
        raise SharedSessionError("another task's session; open a scope in this one")
    return task


def _owned(name: str) -> tuple[str, Callable[..., Any]]:
    method = getattr(orm.Session, name)

    def owned(session: orm.Session, *args: object, **options: object) -> object:
        if name != "close" or session.info.get("is_open"):
            _admit(session)
        return method(session, *args, **options)

    return name, owned


def _set_up_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver leaves BEGIN to the next listener
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_on_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
