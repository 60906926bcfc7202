"""What a unit of work leaves behind when PostgreSQL, or its caller, lets it down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from tests.support.databases import create_tables
from tests.support.pools import assert_pool_is_whole, checked_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

    Sessions = async_sessionmaker[AsyncSession]

pytestmark = pytest.mark.backends("postgresql")

CONNECTIONS = 3


class Base(DeclarativeBase):
    """The tables of these tests."""


class Tenant(Base):
    """A customer, with the number of extensions that it has used up."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)
    extensions: Mapped[int]


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """The pattern's engine, with repeatable reads."""
    engine, sessions = create_engine_and_sessions(
        database_url,
        isolation_level="REPEATABLE READ",
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=5,
    )
    await create_tables(engine, Base.metadata)
    async with session_scope(sessions) as session:
        session.add(Tenant(id=1, extensions=5))
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """Its engine."""
    return engine_and_sessions[0]


@pytest.fixture
def sessions(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> Sessions:
    """Its sessions."""
    return engine_and_sessions[1]


async def extensions(sessions: Sessions) -> int:
    """Return what is committed."""
    async with session_scope(sessions) as session:
        return (await session.get_one(Tenant, 1)).extensions


def sqlstate(error: DBAPIError) -> str | None:
    """Return PostgreSQL's code for what went wrong."""
    return getattr(error.orig, "sqlstate", None)


async def test_a_connection_killed_in_a_transaction_loses_it_and_is_replaced(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    lost = asyncio.Event()

    async def work() -> None:
        async with session_scope(sessions) as session:
            tenant = await session.get_one(Tenant, 1)
            tenant.extensions = 6
            await session.flush()
            raw = await (await session.connection()).get_raw_connection()
            assert raw.driver_connection is not None
            raw.driver_connection.add_termination_listener(lambda _: lost.set())
            pid = await session.scalar(select(func.pg_backend_pid()))
            async with engine.connect() as killer:
                assert await killer.scalar(
                    select(func.pg_terminate_backend(pid, 60_000))
                )
            await lost.wait()
            await session.execute(text("SELECT 1"))

    with pytest.raises(DBAPIError) as failure:
        await work()
    assert failure.value.connection_invalidated
    assert checked_out(engine) == 0
    assert await extensions(sessions) == 5
    await assert_pool_is_whole(engine, CONNECTIONS)


async def test_a_serialization_conflict_keeps_the_first_writer_s_value_only(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    both_have_read, first_has_committed = asyncio.Barrier(2), asyncio.Event()

    async def add(number: int, *, first: bool) -> None:
        async with session_scope(sessions) as session:
            tenant = await session.get_one(Tenant, 1)
            await both_have_read.wait()
            if not first:
                await first_has_committed.wait()
            tenant.extensions += number
        first_has_committed.set()

    first, second = await asyncio.gather(
        add(1, first=True), add(10, first=False), return_exceptions=True
    )
    assert first is None
    assert isinstance(second, DBAPIError)
    assert sqlstate(second) == "40001"
    assert not second.connection_invalidated
    assert await extensions(sessions) == 6
    await assert_pool_is_whole(engine, CONNECTIONS)


async def test_a_statement_that_times_out_rolls_back_what_came_before_it(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async def work() -> None:
        async with session_scope(sessions) as session:
            await session.execute(update(Tenant).values(extensions=6))
            await session.execute(text("SET LOCAL statement_timeout = 100"))
            await session.execute(select(func.pg_sleep(60)))

    with pytest.raises(DBAPIError) as failure:
        await work()
    assert sqlstate(failure.value) == "57014"
    assert not failure.value.connection_invalidated
    assert await extensions(sessions) == 5
    await assert_pool_is_whole(engine, CONNECTIONS)


async def test_a_request_cancelled_while_the_server_works_stops_the_server_too(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async def work() -> None:
        async with session_scope(sessions) as session:
            await session.execute(update(Tenant).values(extensions=6))
            await session.execute(select(func.pg_sleep(600)))

    task = asyncio.create_task(work())
    asleep = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    async with engine.connect() as observer:
        await observer.execution_options(isolation_level="AUTOCOMMIT")
        while await observer.scalar(asleep) == 0:
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert checked_out(engine) == 1
        async with asyncio.timeout(60):
            while await observer.scalar(asleep):
                pass
    assert await extensions(sessions) == 5
    await assert_pool_is_whole(engine, CONNECTIONS)
