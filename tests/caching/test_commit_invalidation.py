"""The tags of a transaction are invalidated when it has committed, and only then."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ForeignKey, event, insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.util import await_

from snippets.caching.commit_invalidation import (
    CommitInvalidation,
    UnwatchedSessionError,
    invalidate_on_commit,
)
from snippets.database.async_session import SharedSessionError, session_scope
from tests.support.commit_invalidation import (
    Base,
    Calls,
    User,
    rename,
)
from tests.support.pools import assert_pool_is_whole, checked_out

if TYPE_CHECKING:
    from tests.support.commit_invalidation import Sessions


PATIENCE = 60
"""Seconds after which something hangs."""


class Extension(Base):
    """A number; that its user exists is checked by the commit."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(
        ForeignKey(User.id, deferrable=True, initially="DEFERRED")
    )


@pytest.fixture
def calls() -> Calls:
    """What was invalidated."""
    return Calls()


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """Its engine."""
    return engine_and_sessions[0]


@pytest.fixture
def invalidation(calls: Calls) -> CommitInvalidation:
    """What its commits set off."""
    return CommitInvalidation(invalidate=calls)


@pytest.fixture
def sessions(
    engine_and_sessions: tuple[AsyncEngine, Sessions], invalidation: CommitInvalidation
) -> Sessions:
    """Its sessions, whose commits invalidate."""
    invalidation.install(engine_and_sessions[1])
    return engine_and_sessions[1]


async def name_of_ada(sessions: Sessions) -> str:
    """Return what is committed."""
    async with session_scope(sessions) as session:
        return (await session.get_one(User, 7)).name


async def test_tags_are_invalidated_after_the_commit_and_before_it_returns(
    sessions: Sessions, calls: Calls, engine: AsyncEngine
) -> None:
    seen: list[str] = []
    returned = asyncio.Event()

    async def look() -> None:
        async with asyncio.timeout(PATIENCE):
            await returned.wait()  # the connection is not held meanwhile
        assert checked_out(engine) == 0
        seen.append(await name_of_ada(sessions))

    calls.then = look
    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, "user:7")
        event.listen(engine.sync_engine, "checkin", lambda *_: returned.set())
        assert not calls.tags

    assert seen == ["Ada Lovelace"]


async def test_each_tag_of_a_transaction_is_invalidated_once_and_all_in_one_call(
    sessions: Sessions, calls: Calls
) -> None:
    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, "user:7", "tenant:1", "user:7")
        await rename(session, "Augusta")
        invalidate_on_commit(session, "tenant:1")
        invalidate_on_commit(session)

    assert calls.tags == [("user:7", "tenant:1")]


async def test_a_transaction_that_named_nothing_invalidates_nothing(
    sessions: Sessions, calls: Calls
) -> None:
    assert await name_of_ada(sessions) == "Ada"
    async with session_scope(sessions) as session:
        await rename(session)

    assert calls.tags == []


@pytest.mark.parametrize("how", ["raises", "rolls back", "closes"])
async def test_a_rollback_invalidates_nothing(
    sessions: Sessions, calls: Calls, how: str
) -> None:
    with suppress(LookupError):
        async with sessions() as session:
            await session.begin()
            await rename(session)
            invalidate_on_commit(session, "user:7")
            if how == "raises":
                raise LookupError
            if how == "rolls back":
                await session.rollback()

    assert calls.tags == []
    assert await name_of_ada(sessions) == "Ada"


async def test_what_was_rolled_back_is_not_left_to_the_next_commit(
    sessions: Sessions, calls: Calls
) -> None:
    async with sessions() as session:
        await rename(session)
        invalidate_on_commit(session, "user:7")
        await session.rollback()
        invalidate_on_commit(session, "tenant:1")
        await session.commit()

    assert calls.tags == [("tenant:1",)]


async def test_each_commit_of_a_session_has_tags_of_its_own(
    sessions: Sessions, calls: Calls
) -> None:
    async with sessions() as session:
        for number in range(3):
            invalidate_on_commit(session, f"user:{number}")  # before it begins
            await rename(session, str(number))
            await session.commit()
        await session.commit()
        async with session.begin():
            invalidate_on_commit(session, "tenant:1")

    assert calls.tags == [("user:0",), ("user:1",), ("user:2",), ("tenant:1",)]


async def test_a_savepoint_s_rollback_takes_back_its_own_tags_only(
    sessions: Sessions, calls: Calls
) -> None:
    async with session_scope(sessions) as session:
        invalidate_on_commit(session, "before")
        async with session.begin_nested() as savepoint:
            await rename(session)
            invalidate_on_commit(session, "before", "within")
            await savepoint.rollback()
        invalidate_on_commit(session, "after")

    assert calls.tags == [("before", "after")]
    assert await name_of_ada(sessions) == "Ada"


async def test_a_released_savepoint_leaves_its_tags_to_what_is_around_it(
    sessions: Sessions, calls: Calls
) -> None:
    async with session_scope(sessions) as session:
        async with session.begin_nested() as outer:
            async with session.begin_nested():
                invalidate_on_commit(session, "lost with the outer one")
            await outer.rollback()
        async with session.begin_nested():
            async with session.begin_nested():
                invalidate_on_commit(session, "kept")
            assert not calls.tags

    assert calls.tags == [("kept",)]


async def test_a_rollback_invalidates_nothing_of_a_released_savepoint(
    sessions: Sessions, calls: Calls
) -> None:
    async with sessions() as session:
        async with session.begin_nested():
            await rename(session)
            invalidate_on_commit(session, "user:7")
        await session.rollback()

    assert calls.tags == []
    assert await name_of_ada(sessions) == "Ada"


async def test_a_write_that_fails_in_a_savepoint_takes_back_its_tags(
    sessions: Sessions, calls: Calls
) -> None:
    async def add_user_7_once_more(session: AsyncSession) -> None:
        async with session.begin_nested():
            invalidate_on_commit(session, "user:8")
            await session.execute(insert(User).values(id=7, name="Grace"))

    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, "user:7")
        with pytest.raises(IntegrityError):
            await add_user_7_once_more(session)

    assert calls.tags == [("user:7",)]


async def test_a_commit_within_a_savepoint_commits_all_of_it(
    sessions: Sessions, calls: Calls
) -> None:
    async with sessions() as session:
        invalidate_on_commit(session, "outside")
        await session.begin_nested()
        await rename(session)
        invalidate_on_commit(session, "inside")
        await session.commit()

    assert calls.tags == [("outside", "inside")]


@given(
    st.lists(
        st.sampled_from(["begin", "release", "undo", *"abc"]), min_size=5, max_size=30
    )
)
def test_any_nesting_of_savepoints_invalidates_what_a_stack_of_sets_would(
    steps: list[str],
) -> None:
    async def run() -> tuple[list[tuple[str, ...]], set[str]]:
        calls = Calls()
        sessions = async_sessionmaker(create_async_engine("sqlite+aiosqlite://"))
        CommitInvalidation(invalidate=calls).install(sessions)
        levels: list[set[str]] = [set()]
        async with sessions.begin() as session:
            for step in steps:
                savepoint = session.get_nested_transaction()
                if step == "begin":
                    await session.begin_nested()
                    levels.append(set())
                elif len(step) == 1:
                    invalidate_on_commit(session, step)
                    levels[-1].add(step)
                elif savepoint is not None and step == "release":
                    await savepoint.commit()
                    released = levels.pop()
                    levels[-1] |= released
                elif savepoint is not None:
                    await savepoint.rollback()
                    levels.pop()
        return calls.tags, set().union(*levels)

    called, expected = asyncio.run(run())

    assert [set(tags) for tags in called] == ([expected] if expected else [])
    assert all(len(set(tags)) == len(tags) for tags in called)


async def test_sessions_within_one_another_do_not_share_tags(
    sessions: Sessions, calls: Calls
) -> None:
    with suppress(LookupError):
        async with session_scope(sessions) as outer:
            invalidate_on_commit(outer, "outer")
            async with session_scope(sessions) as inner:
                await rename(inner)
                invalidate_on_commit(inner, "inner")
            assert calls.tags == [("inner",)]
            raise LookupError

    assert calls.tags == [("inner",)]


async def test_transactions_of_two_tasks_do_not_share_tags(
    sessions: Sessions, calls: Calls
) -> None:
    both_have_named, first_is_done = asyncio.Barrier(2), asyncio.Event()

    async def commit(tag: str) -> None:
        async with session_scope(sessions) as session:
            invalidate_on_commit(session, tag)
            await both_have_named.wait()
        first_is_done.set()

    async def give_up(tag: str) -> None:
        async with session_scope(sessions) as session:
            invalidate_on_commit(session, tag)
            await both_have_named.wait()
            await first_is_done.wait()
            await session.rollback()

    await asyncio.gather(commit("tenant:1"), give_up("tenant:2"))

    assert calls.tags == [("tenant:1",)]


async def test_a_bulk_write_invalidates_the_tags_that_are_named_for_it(
    sessions: Sessions, calls: Calls
) -> None:
    async with session_scope(sessions) as session:
        await session.execute(update(User).values(name="Grace"))
    assert calls.tags == []  # nothing is derived from a statement
    async with session_scope(sessions) as session:
        await session.execute(update(User).values(name="Edsger"))
        invalidate_on_commit(session, "users")

    assert calls.tags == [("users",)]


async def test_a_listener_may_name_tags_for_what_each_flush_wrote(
    sessions: Sessions, calls: Calls
) -> None:
    def name_tags(session: Session, _: object) -> None:
        for user in session.dirty:
            invalidate_on_commit(session, f"user:{user.id}")

    event.listen(sessions.kw["sync_session_class"], "after_flush", name_tags)
    async with session_scope(sessions) as session:
        (await session.get_one(User, 7)).name = "Augusta"  # flushed by the commit

    assert calls.tags == [("user:7",)]


async def test_what_the_commit_flushes_and_the_database_refuses_invalidates_nothing(
    sessions: Sessions, calls: Calls
) -> None:
    async def work() -> None:
        async with session_scope(sessions) as session:
            session.add(User(id=7, name="Grace"))
            invalidate_on_commit(session, "user:7")

    with pytest.raises(IntegrityError):
        await work()

    assert calls.tags == []


async def test_a_commit_that_raises_invalidates_as_only_the_database_knows_its_outcome(
    sessions: Sessions, calls: Calls, engine: AsyncEngine
) -> None:
    async def work() -> None:
        async with session_scope(sessions) as session:
            session.add(Extension(number="1001", user_id=404))
            invalidate_on_commit(session, "user:404")
            await session.flush()

    with pytest.raises(IntegrityError):
        await work()

    assert calls.tags == [("user:404",)]
    await assert_pool_is_whole(engine, 1)


async def test_a_commit_that_is_cancelled_on_its_way_invalidates_too(
    sessions: Sessions, calls: Calls, engine: AsyncEngine
) -> None:
    on_its_way = asyncio.Event()

    def hold(_: object) -> None:
        on_its_way.set()
        await_(asyncio.Event().wait())

    event.listen(engine.sync_engine, "commit", hold)

    async def work() -> None:
        async with session_scope(sessions) as session:
            await rename(session)
            invalidate_on_commit(session, "user:7")

    task = asyncio.create_task(work())
    await on_its_way.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    event.remove(engine.sync_engine, "commit", hold)

    assert calls.tags == [("user:7",)]
    await assert_pool_is_whole(engine, 1)


async def test_a_cancellation_while_the_connection_is_returned_skips_nothing(
    sessions: Sessions, calls: Calls, engine: AsyncEngine
) -> None:
    committed = asyncio.Event()

    def hold(*_: object) -> None:
        committed.set()
        await_(asyncio.Event().wait())

    async def work() -> None:
        async with session_scope(sessions) as session:
            await rename(session)
            invalidate_on_commit(session, "user:7")
            event.listen(engine.sync_engine, "reset", hold, once=True)

    task = asyncio.create_task(work())
    await committed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert calls.tags == [("user:7",)]
    assert await name_of_ada(sessions) == "Ada Lovelace"


async def test_a_caller_that_is_cancelled_does_not_stop_the_invalidation(
    sessions: Sessions,
    invalidation: CommitInvalidation,
    calls: Calls,
    engine: AsyncEngine,
) -> None:
    asked, may_answer, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer() -> None:
        asked.set()
        await may_answer.wait()
        done.set()

    calls.then = answer

    async def work() -> None:
        async with session_scope(sessions) as session:
            await rename(session)
            invalidate_on_commit(session, "user:7")

    task = asyncio.create_task(work())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not done.is_set()
    drain = asyncio.create_task(invalidation.drain())
    await asyncio.sleep(0)
    assert not drain.done()  # it waits
    may_answer.set()
    await drain

    assert done.is_set()
    assert await name_of_ada(sessions) == "Ada Lovelace"
    await assert_pool_is_whole(engine, 1)


async def test_a_two_phase_commit_invalidates_after_its_second_phase(
    calls: Calls,
) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    sessions = async_sessionmaker(engine, twophase=True)
    CommitInvalidation(invalidate=calls).install(sessions)
    async with sessions() as session:
        await session.begin()
        invalidate_on_commit(session, "user:7")
        await session.run_sync(lambda sync: sync.prepare())
        assert calls.tags == []
        await session.commit()

    assert calls.tags == [("user:7",)]


async def test_the_invalidation_runs_in_the_context_of_the_commit(
    sessions: Sessions, calls: Calls
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    seen: list[str] = []

    async def look() -> None:
        seen.append(tenant.get())

    calls.then = look
    tenant.set("acme")
    async with session_scope(sessions) as session:
        invalidate_on_commit(session, "user:7")

    assert seen == ["acme"]


async def test_a_session_of_another_factory_is_refused_and_not_watched(
    engine_and_sessions: tuple[AsyncEngine, Sessions], calls: Calls
) -> None:
    engine, sessions = engine_and_sessions
    early = sessions()
    CommitInvalidation(invalidate=calls).install(sessions)
    late = AsyncSession(engine)

    for session in (early, late):
        with pytest.raises(UnwatchedSessionError):
            invalidate_on_commit(session, "user:7")
        with pytest.raises(UnwatchedSessionError):
            invalidate_on_commit(session.sync_session, "user:7")
        await session.close()


async def test_watching_a_factory_twice_is_refused(
    sessions: Sessions, calls: Calls
) -> None:
    with pytest.raises(TypeError, match="watched already"):
        CommitInvalidation(invalidate=calls).install(sessions)

    async with session_scope(sessions) as session:
        invalidate_on_commit(session, "user:7")
    assert calls.tags == [("user:7",)]


async def test_the_listeners_of_the_factory_s_own_session_class_still_work(
    sessions: Sessions,
) -> None:
    async with session_scope(sessions) as session:
        await rename(session)

        with pytest.raises(SharedSessionError):
            await asyncio.create_task(rename(session, "Augusta"))
