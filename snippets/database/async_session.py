"""Give each unit of work a session that commits, rolls back and closes by itself.

The connection is back in the pool before the caller goes on: after success, after an
exception, after a cancellation and after a second one during the clean-up. Nobody but
the task that opened a scope can work with its session. What is not done: a failed unit
of work is not tried again, and when a commit is cancelled or its connection lost while
it is under way, only the database knows whether it took place.

Source: https://docs.sqlalchemy.org/en/21/orm/extensions/asyncio.html
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import URL, Connection, event, orm
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import ConnectionPoolEntry

relationship = partial(orm.relationship, lazy="raise")
"""A relationship that is loaded by a query's options, or raises when it is read."""


class SharedSessionError(RuntimeError):
    """A second task used a session; it needs a scope of its own."""


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

    class OwnedSession(orm.Session):
        """A class of this factory's own, so that its listeners reach no other."""

    event.listen(OwnedSession, "do_orm_execute", lambda state: _own(state.session))
    event.listen(OwnedSession, "before_flush", lambda session, *_: _own(session))
    event.listen(OwnedSession, "before_commit", _own)
    sessions = async_sessionmaker(
        engine,
        sync_session_class=OwnedSession,
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
    async with sessions() as session:
        _own(session.sync_session)
        # Not `sessions.begin()`: that one commits in a task which is not the owner.
        async with session.begin():
            yield session


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield the session of one request, from `app.state.sessions`."""
    async with session_scope(request.app.state.sessions) as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
"""The parameter of an endpoint; its commit comes before the response is sent."""


def _own(session: orm.Session) -> None:
    """Let the session belong to the current task for as long as that task lives."""
    task = asyncio.current_task()
    owner = session.info.get("owner")
    if owner is not None and owner is not task and not owner.done():
        raise SharedSessionError("another task's session; open a scope in this one")
    session.info["owner"] = task


def _set_up_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver leaves BEGIN to the next listener
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_on_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
