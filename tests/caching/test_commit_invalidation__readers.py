"""What readers are given around a commit, and what it costs; with a real cache."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from snippets.caching.cached import Cache, cached
from snippets.caching.commit_invalidation import (
    CommitInvalidation,
    invalidate_on_commit,
)
from snippets.caching.commit_invalidation_naive import CachedNames
from snippets.caching.guarded_entry import GuardedEntries
from snippets.database.async_session import create_engine_and_sessions, session_scope
from tests.support.commit_invalidation import (
    TAG,
    TTL,
    Names,
    User,
    rename,
)
from tests.support.counters import count_round_trips, count_sql

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine

    from catalogue.plugin import Proof
    from tests.support.commit_invalidation import Sessions
    from tests.support.redis_servers import RedisServer


@pytest.fixture
def names(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
    redis: Redis,
    redis_server: RedisServer,
) -> Names:
    """The cached names."""
    return Names(redis, redis_server.namespace, engine_and_sessions[1])


@pytest.fixture
def sessions(
    engine_and_sessions: tuple[AsyncEngine, Sessions], names: Names
) -> Sessions:
    """Sessions whose commits invalidate the cached names."""
    CommitInvalidation(invalidate=names.invalidate).install(engine_and_sessions[1])
    return engine_and_sessions[1]


async def test_whoever_reads_after_the_commit_has_returned_is_given_the_new_value(
    sessions: Sessions, names: Names
) -> None:
    assert await names.get() == "Ada"

    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, TAG)
        assert await names.get() == "Ada"  # cached, and still what is committed

    assert await names.get() == "Ada Lovelace"


@pytest.mark.parametrize(
    "stores", ["before the commit", "before the invalidation", "after it"]
)
async def test_a_reader_between_write_and_commit_caches_the_old_value_until_the_commit(
    engine_and_sessions: tuple[AsyncEngine, Sessions], names: Names, stores: str
) -> None:
    sessions = engine_and_sessions[1]
    has_read, may_store, has_committed = (asyncio.Event() for _ in range(3))
    may_invalidate = asyncio.Event()

    async def invalidate(*tags: str) -> None:
        has_committed.set()
        await may_invalidate.wait()
        await names.invalidate(*tags)

    async def load() -> str:
        name = await names.load()
        has_read.set()
        await may_store.wait()
        return name

    async def write() -> None:
        async with session_scope(sessions) as session:
            await rename(session)
            reader = asyncio.create_task(names.cache.get(names.key(TAG), load))
            readers.append(reader)
            await has_read.wait()
            invalidate_on_commit(session, TAG)
            if stores == "before the commit":
                may_store.set()
                await reader

    readers: list[asyncio.Task[str]] = []
    CommitInvalidation(invalidate=invalidate).install(sessions)
    writer = asyncio.create_task(write())
    await has_committed.wait()
    if stores == "before the invalidation":
        may_store.set()
        await readers[0]
        assert await names.get() == "Ada"  # the window: committed, not invalidated
    may_invalidate.set()
    await writer
    may_store.set()

    assert await readers[0] == "Ada"  # it asked before the commit
    assert await names.get() == "Ada Lovelace"


async def test_a_cached_function_is_invalidated_by_a_commit(
    engine_and_sessions: tuple[AsyncEngine, Sessions], names: Names
) -> None:
    sessions = engine_and_sessions[1]

    @cached(Cache(lambda: names.redis, names.namespace), ttl=TTL, vary=None)
    async def name_of(user_id: int) -> str:
        async with session_scope(sessions) as session:
            return (await session.get_one(User, user_id)).name

    async def invalidate(*tags: str) -> None:
        for tag in tags:
            await name_of.invalidate(int(tag.removeprefix("user:")))

    CommitInvalidation(invalidate=invalidate).install(sessions)
    assert await name_of(7) == "Ada"
    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, TAG)

    assert await name_of(7) == "Ada Lovelace"


async def test_a_reader_that_began_before_the_commit_loses_its_right_to_write(
    sessions: Sessions, names: Names
) -> None:
    entries = GuardedEntries(client=lambda: names.redis, ttl=TTL)
    slow = await entries.read(names.key(TAG))
    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, TAG)

    assert not await entries.write(slow, b"Ada")


async def test_a_rollback_leaves_the_cache_as_it_was(
    sessions: Sessions, names: Names
) -> None:
    await names.get()
    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, TAG)
        await session.rollback()

    with count_round_trips() as trips:
        assert await names.get() == "Ada"
    assert trips.commands == ["GET"]


async def test_a_process_that_dies_before_the_invalidation_leaves_the_time_to_live(
    names: Names, database_url: str
) -> None:
    await names.get()
    script = f"""
import asyncio, os
from snippets.caching.commit_invalidation import CommitInvalidation
from snippets.caching.commit_invalidation import invalidate_on_commit
from snippets.database.async_session import create_engine_and_sessions, session_scope
from tests.support.commit_invalidation import rename

async def die(*tags):
    os._exit(9)

async def main():
    engine, sessions = create_engine_and_sessions({database_url!r})
    CommitInvalidation(invalidate=die).install(sessions)
    async with session_scope(sessions) as session:
        await rename(session)
        invalidate_on_commit(session, "user:7")

asyncio.run(main())
"""
    command = [sys.executable, "-c", script]
    died = await asyncio.to_thread(subprocess.run, command, check=False)

    assert died.returncode == 9
    assert await names.load() == "Ada Lovelace"
    assert await names.get() == "Ada"  # the window
    assert 0 < await names.redis.pttl(names.key(TAG)) <= TTL * 1000  # and its end
    await names.redis.delete(names.key(TAG))
    assert await names.get() == "Ada Lovelace"


async def test_what_is_read_through_the_cache_after_a_write_outlives_the_rollback(
    sessions: Sessions, names: Names
) -> None:
    async with session_scope(sessions) as session:
        await rename(session)

        async def load() -> str:  # in the transaction that wrote
            return (await session.get_one(User, 7)).name

        await names.cache.get(names.key(TAG), load)
        invalidate_on_commit(session, TAG)
        await session.rollback()

    assert await names.load() == "Ada"
    assert await names.get() == "Ada Lovelace"  # as the module's docstring warns


@pytest.mark.backends("postgresql")
async def test_a_reader_in_an_older_snapshot_restores_the_old_value(
    sessions: Sessions, names: Names, database_url: str
) -> None:
    older_engine, older = create_engine_and_sessions(
        database_url, isolation_level="REPEATABLE READ"
    )
    async with session_scope(older) as snapshot:
        await snapshot.scalar(select(User.id))  # begins before the look into the cache
        async with session_scope(sessions) as session:
            await rename(session)
            invalidate_on_commit(session, TAG)

        async def load() -> str:
            return (await snapshot.get_one(User, 7)).name

        await names.cache.get(names.key(TAG), load)
    await older_engine.dispose()

    assert await names.get() == "Ada"  # as the module's docstring warns


@pytest.mark.parametrize("tags", [1, 2, 500])
async def test_a_commit_costs_one_round_trip_however_many_tags_it_names(
    sessions: Sessions,
    names: Names,
    engine_and_sessions: tuple[AsyncEngine, Sessions],
    proof: Proof,
    tags: int,
) -> None:
    await names.redis.ping()
    engine = engine_and_sessions[0]

    with count_round_trips() as trips, count_sql(engine) as sql:
        async with session_scope(sessions) as session:
            await rename(session)
            invalidate_on_commit(session, *(f"user:{each}" for each in range(tags)))
            invalidate_on_commit(session, *(f"user:{each}" for each in range(tags)))

    assert (trips.total, trips.commands) == (1, ["SET"] * tags)
    assert (sql.begins, sql.commits, sql.total) == (1, 1, 2)
    proof.cost(f"commit with {tags} tag{'s' * (tags > 1)}", round_trips=1)


@pytest.mark.parametrize("kind", ["read only", "rolled back"])
async def test_a_transaction_that_changed_nothing_costs_no_round_trip(
    sessions: Sessions, names: Names, proof: Proof, kind: str
) -> None:
    await names.redis.ping()

    with count_round_trips() as trips:
        async with session_scope(sessions) as session:
            await session.get_one(User, 7)
            if kind == "rolled back":
                await rename(session)
                invalidate_on_commit(session, TAG)
                await session.rollback()

    assert trips.total == 0
    proof.cost(f"transaction that is {kind}", round_trips=0)


async def test_the_naive_cache_is_given_back_the_old_row_before_the_commit(
    names: Names, engine_and_sessions: tuple[AsyncEngine, Sessions], proof: Proof
) -> None:
    sessions, key = engine_and_sessions[1], names.key("name")
    naive = CachedNames(names.redis, sessions)
    await naive.get(key, 7)
    deleted, has_read = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with session_scope(sessions) as session:
            await naive.change(key, 7, "Ada Lovelace", session)
            deleted.set()
            await has_read.wait()

    writer = asyncio.create_task(write())
    await deleted.wait()
    await naive.get(key, 7)
    has_read.set()
    await writer

    assert await names.load() == "Ada Lovelace"
    assert await naive.get(key, 7) == "Ada"
    proof.breaks(
        "A user is read between the delete and the commit",
        "the old row is cached again, and served until its time is over",
    )


async def test_a_naive_rollback_leaves_the_cache_emptied(
    names: Names, engine_and_sessions: tuple[AsyncEngine, Sessions], proof: Proof
) -> None:
    sessions, key = engine_and_sessions[1], names.key("name")
    naive = CachedNames(names.redis, sessions)
    await naive.get(key, 7)

    async with session_scope(sessions) as session:
        await naive.change(key, 7, "Ada Lovelace", session)
        await session.rollback()

    assert await names.load() == "Ada"
    assert await names.redis.get(key) is None
    proof.breaks(
        "The transaction is rolled back",
        "the cached value, which was right, is gone",
    )
