"""A unit of work that lost a race is done again from its reads on, and not for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from snippets.database import retry_on_conflict_naive
from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.optimistic_lock import install_optimistic_lock
from snippets.database.optimistic_lock_wiring import Base, Extension
from snippets.database.retry_on_conflict import is_conflict, retry_on_conflict
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    from catalogue.plugin import Proof

    Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """An engine, and sessions with the lock, on a database with one extension."""
    engine, sessions = create_engine_and_sessions(database_url)
    install_optimistic_lock(sessions)
    await create_tables(engine, Base.metadata)
    async with session_scope(sessions) as session:
        session.add(Extension(id=17, forwards_to="0"))
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def sessions(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> Sessions:
    """Its sessions."""
    return engine_and_sessions[1]


async def target(sessions: Sessions) -> str:
    """Return where the extension forwards to, read by a session of its own."""
    async with sessions() as session:
        return (await session.get_one(Extension, 17)).forwards_to


async def increase(session: AsyncSession) -> None:
    """Write what follows from what was read."""
    extension = await session.get_one(Extension, 17)
    extension.forwards_to = str(int(extension.forwards_to) + 1)


async def no_sleep(_: float) -> None:
    """Let the next attempt begin at once."""


async def test_each_of_many_writers_builds_on_the_one_before(
    sessions: Sessions,
) -> None:
    writers = (retry_on_conflict(sessions, increase, attempts=20) for _ in range(5))
    await asyncio.gather(*writers)
    assert await target(sessions) == "5"


async def test_two_who_read_before_either_writes_both_count(
    sessions: Sessions,
) -> None:
    both_have_read = asyncio.Barrier(2)
    attempts: list[AsyncSession] = []

    async def work(session: AsyncSession) -> None:
        attempts.append(session)
        await session.get_one(Extension, 17)
        if len(attempts) <= 2:
            await both_have_read.wait()
        await increase(session)

    async def until_one_has_won(_: float) -> None:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)

    both = [
        asyncio.create_task(retry_on_conflict(sessions, work, sleep=until_one_has_won))
        for _ in range(2)
    ]
    await asyncio.gather(*both)
    assert await target(sessions) == "2"
    assert len({id(session) for session in attempts}) == len(attempts) == 3


async def test_the_loser_of_a_race_within_one_transaction(
    sessions: Sessions, database_backend: str, proof: Proof
) -> None:
    both_have_read = asyncio.Barrier(2)

    async def work() -> None:
        async with session_scope(sessions) as session:
            await session.get_one(Extension, 17)
            await both_have_read.wait()
            await increase(session)

    (error,) = filter(
        None, await asyncio.gather(work(), work(), return_exceptions=True)
    )
    assert isinstance(error, Exception)
    assert is_conflict(error)
    if database_backend == "sqlite":
        assert isinstance(error, OperationalError)
        told = "OperationalError, since the reader's lock cannot become a writer's"
    else:
        assert isinstance(error, StaleDataError)
        told = "StaleDataError"
    proof.differs("The second to write, having read before, gets", told)


@pytest.mark.backends("postgresql")
async def test_a_serialization_failure_is_a_conflict(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> None:
    engine, sessions = engine_and_sessions
    strict = async_sessionmaker(
        engine.execution_options(isolation_level="SERIALIZABLE"), expire_on_commit=False
    )
    attempts: list[int] = []

    async def work(session: AsyncSession) -> None:
        seen = await session.get_one(Extension, 17)
        attempts.append(len(attempts))
        if len(attempts) == 1:
            async with session_scope(sessions) as other:
                await increase(other)
        where = sa.update(Extension).where(Extension.id == 17)
        await session.execute(where.values(forwards_to=f"{seen.forwards_to}!"))

    await retry_on_conflict(strict, work)
    assert attempts == [0, 1]
    assert await target(sessions) == "1!"


@pytest.mark.backends("postgresql")
async def test_the_victim_of_a_deadlock_does_it_again(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> None:
    engine, sessions = engine_and_sessions
    async with session_scope(sessions) as session:
        session.add(Extension(id=18, forwards_to="0"))
    plain = async_sessionmaker(engine)
    both_have_written = asyncio.Barrier(2)
    attempts: list[str] = []

    async def swap(name: str, *order: int) -> None:
        async def work(session: AsyncSession) -> None:
            attempts.append(name)
            longer = sa.update(Extension).values(
                forwards_to=Extension.forwards_to + "!"
            )
            await session.execute(longer.where(Extension.id == order[0]))
            if len(attempts) <= 2:
                await both_have_written.wait()
            await session.execute(longer.where(Extension.id == order[1]))

        await retry_on_conflict(plain, work, sleep=until_one_has_won)

    async def until_one_has_won(_: float) -> None:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)

    both = [
        asyncio.create_task(swap("up", 17, 18)),
        asyncio.create_task(swap("down", 18, 17)),
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*both)
    async with sessions() as session:
        targets = await session.scalars(sa.select(Extension.forwards_to))
        assert targets.all() == ["0!!", "0!!"]
    assert len(attempts) == 3


async def test_after_the_last_attempt_the_conflict_is_raised(
    sessions: Sessions,
) -> None:
    for attempts in (1, 2, 5):
        done = 0

        async def work(_: AsyncSession) -> None:
            nonlocal done
            done += 1
            raise StaleDataError("somebody was faster")

        with pytest.raises(StaleDataError, match="faster"):
            await retry_on_conflict(sessions, work, attempts=attempts, sleep=no_sleep)
        assert done == attempts


async def test_a_pause_grows_with_the_attempts_up_to_a_second(
    sessions: Sessions,
) -> None:
    pauses: list[float] = []

    async def work(_: AsyncSession) -> None:
        raise StaleDataError("somebody was faster")

    async def note(pause: float) -> None:
        pauses.append(pause)

    for _ in range(20):
        with pytest.raises(StaleDataError):
            await retry_on_conflict(sessions, work, attempts=7, sleep=note)
    bounds = [0.1, 0.2, 0.4, 0.8, 1, 1]
    rounds = [pauses[start : start + 6] for start in range(0, len(pauses), 6)]
    assert len(rounds) == 20
    for bound, nth in zip(bounds, zip(*rounds, strict=True), strict=True):
        assert bound / 4 < max(nth) <= bound
        assert 0 <= min(nth) < bound * 3 / 4


@pytest.mark.parametrize("attempts", [0, -1])
async def test_no_attempt_at_all_is_refused(sessions: Sessions, attempts: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        await retry_on_conflict(sessions, increase, attempts=attempts)
    assert await target(sessions) == "0"


async def test_what_is_no_conflict_is_raised_at_once(sessions: Sessions) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await increase(session)
        await session.flush()
        await session.execute(sa.insert(Extension).values(id=17, forwards_to="x"))

    with pytest.raises(IntegrityError):
        await retry_on_conflict(sessions, work)
    assert attempts == 1
    assert await target(sessions) == "0"


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route to host"),
        ValueError(),
        DBAPIError("SELECT 1", None, OSError("lost")),
        DBAPIError("SELECT 1", None, Exception(), connection_invalidated=True),
    ],
)
def test_an_outage_is_no_conflict(error: Exception) -> None:
    assert not is_conflict(error)


async def test_a_cancellation_passes_and_leaves_nothing_behind(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> None:
    _, sessions = engine_and_sessions
    has_written, never = asyncio.Event(), asyncio.Event()
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await increase(session)
        await session.flush()
        has_written.set()
        await never.wait()

    task = asyncio.create_task(retry_on_conflict(sessions, work))
    await has_written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempts == 1
    assert await target(sessions) == "0"


async def test_without_a_conflict_nothing_is_sent_but_the_work(
    engine_and_sessions: tuple[AsyncEngine, Sessions], proof: Proof
) -> None:
    engine, sessions = engine_and_sessions
    with count_sql(engine) as sent:
        await retry_on_conflict(sessions, increase)
    assert (sent.total, sent.begins, sent.commits) == (2, 1, 1)
    proof.cost("one read and one write without a conflict", statements=2, commits=1)


async def test_the_naive_loop_writes_what_it_read_before_it_lost(
    sessions: Sessions, proof: Proof
) -> None:
    both_have_read = asyncio.Barrier(2)

    async def one_more(now: str) -> str:
        await both_have_read.wait()
        return str(int(now) + 1)

    save = retry_on_conflict_naive.save
    both = save(sessions, 17, one_more), save(sessions, 17, one_more)
    await asyncio.gather(*both, return_exceptions=True)
    assert await target(sessions) == "1"
    proof.breaks(
        "Two jobs read, and each adds one to what it has read",
        "the result is one more, not two: the loop repeats the write, not the read",
    )
