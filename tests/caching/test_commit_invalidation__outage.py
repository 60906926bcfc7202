"""A commit stands whatever becomes of the invalidation, which is told and repeated."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import RedisError

from snippets.caching.commit_invalidation import (
    CommitInvalidation,
    invalidate_on_commit,
)
from snippets.caching.redis_client import create_redis
from snippets.database.async_session import session_scope
from tests.support.commit_invalidation import (
    TAG,
    Names,
    User,
    database_with_ada,
    rename,
)
from tests.support.redis_faults import faulty_server
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.commit_invalidation import Sessions

PATIENCE = 60
"""Seconds after which something hangs."""


@dataclass
class Told:
    """What was told of failures, and how long it waited after each."""

    log: pytest.LogCaptureFixture
    steps: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    may_try_again: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, step: str) -> None:
        """Count a failure."""
        self.steps.append(step)
        self.failed.set()

    async def sleep(self, delay: float) -> None:
        """Wait until the test lets time pass."""
        self.delays.append(delay)
        await self.may_try_again.wait()

    def assert_logged(self, *steps: str) -> None:
        """Require one record for each failure, with no tag, key or name in any."""
        records = [one for one in self.log.records if one.name.startswith("snippets")]
        assert [record.levelname for record in records] == ["WARNING"] * len(steps)
        for record, step in zip(records, steps, strict=True):
            assert record.getMessage().startswith(f"invalidation {step}: ")
        for secret in (TAG, "Ada", "test-", "127.0.0.1"):
            assert secret not in self.log.text


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """Nothing yet."""
    return Told(caplog)


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    """A database with one user."""
    async with database_with_ada(database_url) as (_, sessions):
        yield sessions


async def change(sessions: Sessions) -> None:
    """Rename Ada."""
    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, TAG)


async def test_while_redis_is_down_a_write_succeeds_and_its_invalidation_follows(
    sessions: Sessions,
    breakable: FakeRedisServer | PrivateRedisServer,
    told: Told,
) -> None:
    names = Names(breakable.client(), breakable.namespace, sessions)
    invalidation = CommitInvalidation(
        invalidate=names.invalidate, on_failure=told, sleep=told.sleep
    )
    invalidation.install(sessions)
    await names.get()

    with breakable.down():
        async with asyncio.timeout(PATIENCE):
            await change(sessions)  # waits for the first try, and for no other
        await told.failed.wait()
        assert await names.load() == "Ada Lovelace"
        assert told.delays == [0.1]
    if isinstance(breakable, FakeRedisServer):
        assert await names.get() == "Ada"  # the window: Redis is back, with its memory
    told.may_try_again.set()
    await invalidation.drain()

    assert await names.get() == "Ada Lovelace"
    assert told.steps == ["failed"]
    told.assert_logged("failed")


async def test_an_invalidation_is_given_up_after_the_last_try(
    sessions: Sessions, breakable: FakeRedisServer | PrivateRedisServer, told: Told
) -> None:
    names = Names(breakable.client(), breakable.namespace, sessions)
    invalidation = CommitInvalidation(
        invalidate=names.invalidate, on_failure=told, sleep=told.sleep
    )
    invalidation.install(sessions)
    told.may_try_again.set()

    with breakable.down():
        await change(sessions)
        await invalidation.drain()
    await asyncio.sleep(0)

    assert told.delays == [0.1, 1.0, 10.0]
    assert told.steps == ["failed"] * 3 + ["given up"]
    told.assert_logged(*told.steps)
    await change(sessions)  # and the next commit tries again
    assert len(told.steps) == 4


async def test_a_redis_that_never_answers_delays_the_commit_by_one_time_limit(
    sessions: Sessions, told: Told
) -> None:
    async with (
        faulty_server() as silent,
        create_redis(silent.url, timeout=0.1) as redis,
    ):
        names = Names(redis, "test-names", sessions)
        invalidation = CommitInvalidation(
            invalidate=names.invalidate, on_failure=told, sleep=told.sleep
        )
        invalidation.install(sessions)
        async with asyncio.timeout(PATIENCE):
            await change(sessions)
        await told.failed.wait()

        assert silent.connections == 1
        assert await names.load() == "Ada Lovelace"
        told.may_try_again.set()
        await invalidation.drain()
    told.assert_logged("failed", "failed", "failed", "given up")


@pytest.mark.parametrize(
    "error", [RedisError(TAG), TimeoutError(TAG), TypeError(TAG), Exception(TAG)]
)
async def test_no_error_of_an_invalidation_fails_the_commit_or_quotes_a_tag(
    sessions: Sessions, told: Told, error: Exception
) -> None:
    calls: list[tuple[str, ...]] = []

    async def invalidate(*tags: str) -> None:
        calls.append(tags)
        if len(calls) == 1:
            raise error

    invalidation = CommitInvalidation(
        invalidate=invalidate, on_failure=told, sleep=told.sleep
    )
    invalidation.install(sessions)
    told.may_try_again.set()
    await change(sessions)
    await invalidation.drain()

    assert calls == [(TAG,), (TAG,)]
    told.assert_logged("failed")


async def test_an_invalidation_that_is_no_coroutine_and_raises_fails_no_commit(
    sessions: Sessions, told: Told
) -> None:
    def invalidate(*_: str) -> asyncio.Future[None]:
        raise AttributeError(TAG)  # as `app.state.redis` does before the start-up

    invalidation = CommitInvalidation(invalidate=invalidate, delays=(), on_failure=told)
    invalidation.install(sessions)
    await change(sessions)
    await told.failed.wait()

    assert told.steps == ["given up"]
    told.assert_logged("given up")


async def test_an_invalidation_that_cancels_itself_holds_nobody_up(
    sessions: Sessions, told: Told
) -> None:
    async def invalidate(*_: str) -> None:
        raise asyncio.CancelledError

    invalidation = CommitInvalidation(invalidate=invalidate, delays=(), on_failure=told)
    invalidation.install(sessions)
    async with asyncio.timeout(PATIENCE):
        await change(sessions)
    await told.failed.wait()

    assert told.steps == ["given up"]


async def test_a_shutdown_that_cancels_an_invalidation_lets_its_commit_return(
    sessions: Sessions,
) -> None:
    asked = asyncio.Event()

    async def invalidate(*_: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    CommitInvalidation(invalidate=invalidate).install(sessions)
    writer = asyncio.create_task(change(sessions))
    await asked.wait()
    for task in asyncio.all_tasks() - {writer, asyncio.current_task()}:
        task.cancel()
    async with asyncio.timeout(PATIENCE):
        await writer

    async with session_scope(sessions) as session:
        assert (await session.get_one(User, 7)).name == "Ada Lovelace"


async def test_a_callback_that_raises_does_not_stop_the_next_try(
    sessions: Sessions, told: Told
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: complaints.append(context["exception"])
    )
    error = LookupError("no such metric")
    calls: list[tuple[str, ...]] = []

    async def invalidate(*tags: str) -> None:
        calls.append(tags)
        if len(calls) == 1:
            raise RedisError

    def complain(_: str) -> None:
        raise error

    invalidation = CommitInvalidation(
        invalidate=invalidate, on_failure=complain, sleep=told.sleep
    )
    invalidation.install(sessions)
    told.may_try_again.set()
    await change(sessions)
    await invalidation.drain()

    assert calls == [(TAG,), (TAG,)]
    assert complaints == [error]


async def test_one_failing_commit_does_not_hold_up_the_next_one(
    sessions: Sessions, told: Told
) -> None:
    calls: list[tuple[str, ...]] = []

    async def invalidate(*tags: str) -> None:
        calls.append(tags)
        if len(calls) == 1:
            raise RedisError

    invalidation = CommitInvalidation(
        invalidate=invalidate, on_failure=told, sleep=told.sleep
    )
    invalidation.install(sessions)
    await change(sessions)
    async with session_scope(sessions) as session:
        invalidate_on_commit(session, "tenant:1")
    assert calls == [(TAG,), ("tenant:1",)]
    told.may_try_again.set()
    await invalidation.drain()

    assert calls == [(TAG,), ("tenant:1",), (TAG,)]
