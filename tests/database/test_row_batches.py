"""Rows are sent in batches, and after an error or a cancellation none of them stays."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.conflict import ConflictError
from snippets.database.row_batches import (
    RowConflictError,
    all_or_nothing,
    send_in_batches,
)
from snippets.database.row_batches_naive import import_rows
from tests.support.counters import count_sql
from tests.support.databases import create_tables
from tests.support.pools import checked_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

    from catalogue.plugin import Proof

    Sessions = async_sessionmaker[AsyncSession]


class Base(DeclarativeBase):
    """The tables of these tests."""


class Tenant(Base):
    """A customer of the telephony platform."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)


class Call(Base):
    """A call that was made."""

    __tablename__ = "calls"
    __table_args__ = (
        sa.CheckConstraint("seconds >= 0", name="ck_calls_seconds"),
        sa.UniqueConstraint("number", name="uq_calls_number"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]
    seconds: Mapped[int]
    tenant_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey(Tenant.id, deferrable=True, initially="DEFERRED")
    )


CALLS = sa.insert(Base.metadata.tables["calls"])
COUNT = sa.select(sa.func.count(Call.id))


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """An engine and the factory of its sessions, on a database with the tables."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """The engine."""
    return engine_and_sessions[0]


@pytest.fixture
def sessions(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> Sessions:
    """The factory."""
    return engine_and_sessions[1]


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A session that wrote a call before."""
    async with sessions() as session:
        session.add(Call(number="before", seconds=1))
        await session.flush()
        yield session


def calls(count: int, **bad: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their places; `_3={...}` changes the one at place 3."""
    for place in range(count):
        row = {"number": f"{place}", "seconds": 60}
        yield place, row | bad.get(f"_{place}", {})


async def count(sessions: Sessions) -> int | None:
    """Return how many calls were committed."""
    async with sessions() as session:
        return await session.scalar(COUNT)


@pytest.mark.parametrize(
    ("rows", "size"), [(0, 10), (1, 10), (9, 10), (10, 10), (11, 10), (25, 1)]
)
async def test_each_batch_is_one_statement(
    session: AsyncSession, engine: AsyncEngine, rows: int, size: int
) -> None:
    with count_sql(engine) as statements:
        returned = await send_in_batches(session, Call, CALLS, calls(rows), size=size)

    assert len(returned) == 0
    assert statements.total == ceil(rows / size)
    assert await session.scalar(COUNT) == rows + 1


async def test_batches_of_a_thousand(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    with count_sql(engine) as statements:
        await send_in_batches(session, Call, CALLS, calls(2500))

    assert (statements.total, statements.savepoints) == (3, 4)
    proof.cost("2500 rows", statements=3, savepoints=4)


async def test_what_the_statement_returns_is_handed_back(session: AsyncSession) -> None:
    returning = CALLS.returning(Call.number)
    rows = await send_in_batches(session, Call, returning, calls(25), size=10)

    assert {row.number for row in rows} == {f"{place}" for place in range(25)}


async def test_a_batch_has_at_least_one_row(session: AsyncSession) -> None:
    with pytest.raises(ValueError, match="1 row or more"):
        await send_in_batches(session, Call, CALLS, calls(1), size=0)


@pytest.mark.parametrize("size", [10, 25])
@pytest.mark.parametrize("bad", [0, 1, 9, 10, 17, 24])
async def test_the_bad_row_is_named_and_no_row_stays(
    session: AsyncSession, sessions: Sessions, bad: int, size: int
) -> None:
    rows = calls(25, **{f"_{bad}": {"seconds": -1}})
    with pytest.raises(RowConflictError, match="ck_calls_seconds") as caught:
        await send_in_batches(session, Call, CALLS, rows, size=size)

    assert caught.value.row == bad
    assert caught.value.constraint == "ck_calls_seconds"
    assert await session.scalar(COUNT) == 1
    await send_in_batches(session, Call, CALLS, calls(3))
    await session.commit()
    assert await count(sessions) == 4


async def test_a_duplicate_of_a_row_in_an_earlier_batch_is_named(
    session: AsyncSession,
) -> None:
    rows = calls(25, _21={"number": "4"})
    with pytest.raises(ConflictError, match="row 21: Call violates uq_calls_number"):
        await send_in_batches(session, Call, CALLS, rows, size=10)

    assert await session.scalar(COUNT) == 1


async def test_the_bad_row_is_found_by_halving(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    rows = calls(1000, _999={"seconds": -1})
    with count_sql(engine) as statements, pytest.raises(RowConflictError):
        await send_in_batches(session, Call, CALLS, rows)

    assert statements.total <= 21
    proof.cost("a batch of 1000 whose last row is refused", statements=statements.total)


async def test_the_error_is_free_of_the_row_s_values(session: AsyncSession) -> None:
    canary: dict[str, Any] = {"number": "canary-4f1c", "seconds": -1}
    with pytest.raises(RowConflictError) as caught:
        await send_in_batches(session, Call, CALLS, calls(3, _1=canary))

    error = caught.value
    shown = [str(error), repr(error), *traceback.format_exception(error)]
    assert canary["number"] not in "".join(shown)


async def test_an_error_of_the_iterator_leaves_no_row(session: AsyncSession) -> None:
    def broken() -> Iterator[tuple[int, dict[str, Any]]]:
        yield from calls(25)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        await send_in_batches(session, Call, CALLS, broken(), size=10)

    assert await session.scalar(COUNT) == 1


@pytest.mark.backends("postgresql")
async def test_an_error_that_is_no_violated_constraint_passes_and_leaves_no_row(
    session: AsyncSession,
) -> None:
    rows = calls(25, _17={"seconds": 2**40})
    with pytest.raises(DBAPIError) as caught:
        await send_in_batches(session, Call, CALLS, rows, size=10)

    assert not isinstance(caught.value, IntegrityError)
    assert await session.scalar(COUNT) == 1


async def test_a_deferred_constraint_raises_at_the_commit(
    session: AsyncSession, sessions: Sessions
) -> None:
    rows = calls(25, _17={"tenant_id": 99})
    all_given = ((place, {"tenant_id": None, **row}) for place, row in rows)
    await send_in_batches(session, Call, CALLS, all_given, size=10)

    with pytest.raises(IntegrityError):
        await session.commit()
    assert await count(sessions) == 0


@pytest.mark.parametrize("after", [0, 10, 11, 15, 20, 24])
async def test_a_cancellation_leaves_no_row(
    sessions: Sessions, engine: AsyncEngine, after: int
) -> None:
    """The cancellation arrives where the next statement or savepoint is awaited."""

    def rows(task: asyncio.Task[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        for place, row in calls(25):
            if place == after:
                task.cancel()
            yield place, row

    async def write() -> None:
        task = asyncio.current_task()
        assert task
        async with session_scope(sessions) as session:
            session.add(Call(number="before", seconds=1))
            await session.flush()
            await send_in_batches(session, Call, CALLS, rows(task), size=10)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(write())

    assert checked_out(engine) == 0
    assert await count(sessions) == 0


async def test_after_a_cancellation_that_is_caught_nothing_can_be_committed(
    sessions: Sessions,
) -> None:
    """It may have hit a statement that is under way, so the connection is given up."""

    async def write() -> None:
        task = asyncio.current_task()
        assert task
        async with session_scope(sessions) as session:
            session.add(Call(number="before", seconds=1))

            def rows() -> Iterator[tuple[int, dict[str, Any]]]:
                yield from calls(15)
                task.cancel()
                yield 15, {"number": "15", "seconds": 60}

            with suppress(asyncio.CancelledError):
                await send_in_batches(session, Call, CALLS, rows(), size=10)
            task.uncancel()

    with pytest.raises(PendingRollbackError):
        await asyncio.create_task(write())
    assert await count(sessions) == 0


@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_rollback_takes_back_the_first_write_of_a_plain_engine(
    database_url: str, sessions: Sessions, *, ends_well: bool
) -> None:
    """SQLite's driver, as it is set by default, begins no transaction by itself."""
    engine = create_async_engine(database_url)
    rows = calls(25) if ends_well else calls(25, _17={"seconds": -1})
    async with AsyncSession(engine) as session:
        with suppress(RowConflictError):
            await send_in_batches(session, Call, CALLS, rows, size=10)
        assert await session.scalar(COUNT) == (25 if ends_well else 0)
        await session.rollback()
    await engine.dispose()

    assert await count(sessions) == 0


async def test_a_block_that_fails_is_undone_and_no_more(
    session: AsyncSession, sessions: Sessions
) -> None:
    async def fail() -> None:
        async with all_or_nothing(session, Call):
            await send_in_batches(session, Call, CALLS, calls(25), size=10)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    async with all_or_nothing(session, Call):
        session.add(Call(number="after", seconds=1))
    await session.commit()

    assert await count(sessions) == 2


async def test_the_naive_version_leaves_half_of_the_import(
    sessions: Sessions, proof: Proof
) -> None:
    rows = [row for _, row in calls(2500, _1700={"number": "canary", "seconds": -1})]
    async with sessions() as session:
        with pytest.raises(ValueError, match="import failed") as caught:
            await import_rows(session, sa.insert(Call), rows)

    assert await count(sessions) == 1000
    proof.breaks(
        "2500 rows are imported, of which the one at place 1700 violates a constraint",
        "1000 rows stay, and the error does not say which row it was",
    )
    assert "1700" not in str(caught.value).partition("[SQL")[0]


@pytest.mark.backends("postgresql")
async def test_the_naive_version_exceeds_the_limit_of_parameters(
    sessions: Sessions, proof: Proof
) -> None:
    wide = sa.table("wide", *(sa.column(f"feature_{number}") for number in range(40)))
    async with sessions() as session:
        create = ", ".join(f"feature_{number} integer" for number in range(40))
        await session.execute(sa.text(f"create table wide ({create})"))
        rows = [{f"feature_{n}": place for n in range(40)} for place in range(1000)]
        with pytest.raises(DBAPIError):
            await import_rows(session, sa.insert(wide), rows)

    proof.breaks(
        "1000 rows of 40 columns are imported",
        "the database refuses a statement with 40,000 parameters",
    )
