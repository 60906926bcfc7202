"""Tags of what is read through or decorated, invalidated when a commit says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from snippets.caching.cache_key import CacheKey
from snippets.caching.cache_manager import CacheManager
from snippets.caching.cached import Cached
from snippets.caching.codec import Codec
from snippets.caching.commit_invalidation import (
    CommitInvalidation,
    invalidate_on_commit,
)
from snippets.caching.read_through import ReadThrough
from snippets.caching.tag_index import TagIndex
from snippets.database.async_session import session_scope
from tests.support.commit_invalidation import User, rename
from tests.support.counters import count_round_trips
from tests.support.redis_servers import FakeRedisServer

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine

    from catalogue.plugin import Proof
    from tests.support.commit_invalidation import Sessions
    from tests.support.redis_servers import PrivateRedisServer

HOUR = 3600.0
NAMES = Codec[dict[int, str]](dict[int, str])


class Teams:
    """The names of a team's members, read through a cache under their users' tags."""

    def __init__(self, redis: Redis, namespace: str, sessions: Sessions) -> None:
        """Keep each team under the tags of the users in it."""
        self.manager = CacheManager(lambda: redis, namespace)
        self.sessions = sessions
        self.invalidation = CommitInvalidation(
            invalidate=self.manager.invalidate_by_tags, sleep=self.sleep
        )
        self.invalidation.install(sessions)
        self.steps: list[str] = []
        self.loads = 0
        self.is_back = asyncio.Event()
        self.results = ReadThrough(
            name="teams",
            codec=NAMES,
            entries=self.manager.entries(ttl=HOUR, tags=self.tags),
            on_failure=lambda _, step: self.steps.append(step),
        )
        self.decorated = Cached(
            self.members, CacheKey(self.members, "telephony:1", vary=None), self.results
        )

    @staticmethod
    def tags(_: str, payload: bytes) -> list[str]:
        """Return the tags of a team, which are known only when it is loaded."""
        return [f"user:{user_id}" for user_id in NAMES.decode(payload)]

    async def sleep(self, _: float) -> None:
        """Wait until Redis is back."""
        await self.is_back.wait()

    async def members(self, team: str) -> dict[int, str]:
        """Load a team; that of all users has no other name."""
        assert team == "all"
        self.loads += 1
        async with session_scope(self.sessions) as session:
            return {7: (await session.get_one(User, 7)).name}

    async def read(self) -> dict[int, str]:
        """Read the team through the cache."""
        return await self.results.get("team:all", lambda: self.members("all"))

    async def change(self) -> None:
        """Rename Ada, and say so."""
        async with session_scope(self.sessions) as session:
            await rename(session)
            invalidate_on_commit(session, "user:7", "user:8")


@pytest.fixture
def teams(
    engine_and_sessions: tuple[AsyncEngine, Sessions], redis: Redis, tagged: str
) -> Teams:
    """Teams in this test's Redis and database."""
    return Teams(redis, tagged, engine_and_sessions[1])


async def test_a_commit_invalidates_what_was_read_through_under_one_of_its_tags(
    teams: Teams, proof: Proof
) -> None:
    assert await teams.read() == await teams.read() == {7: "Ada"}
    assert teams.loads == 1

    with count_round_trips() as trips:
        await teams.change()
    assert trips.commands == ["EVAL"]
    assert await teams.read() == {7: "Ada Lovelace"}
    with count_round_trips() as trips:
        assert await teams.read() == {7: "Ada Lovelace"}
    assert trips.commands == ["HGET"]
    proof.cost("hit through ReadThrough", round_trips=1)
    proof.cost("commit that invalidates two tags", round_trips=1)


async def test_a_commit_invalidates_the_result_of_a_decorated_function_by_its_tags(
    teams: Teams,
) -> None:
    assert await teams.decorated("all") == await teams.decorated(team="all")
    assert teams.loads == 1

    await teams.change()
    assert await teams.decorated("all") == {7: "Ada Lovelace"}
    assert teams.loads == 2


async def test_a_rollback_invalidates_nothing(teams: Teams) -> None:
    await teams.read()

    async with session_scope(teams.sessions) as session:
        await rename(session)
        invalidate_on_commit(session, "user:7")
        await session.rollback()

    assert await teams.read() == {7: "Ada"}
    assert teams.loads == 1


async def test_a_reader_that_began_before_the_commit_cannot_restore_the_old_value(
    teams: Teams,
) -> None:
    has_read, may_store = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[int, str]:
        old = await teams.members("all")
        has_read.set()
        await may_store.wait()
        return old

    reader = asyncio.create_task(teams.results.get("team:all", slow))
    await has_read.wait()
    await teams.change()
    may_store.set()

    assert await reader == {7: "Ada"}  # it asked before the commit
    assert await teams.read() == {7: "Ada Lovelace"}
    assert teams.loads == 2


async def test_who_asks_after_the_commit_is_not_given_a_flight_s_old_value(
    teams: Teams,
) -> None:
    has_read, may_store = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[int, str]:
        old = await teams.members("all")
        has_read.set()
        await may_store.wait()
        return old

    early = asyncio.create_task(teams.results.get("team:all", slow))
    await has_read.wait()
    await teams.change()
    late = asyncio.create_task(teams.read())
    await asyncio.sleep(0)  # it joins the flight
    may_store.set()

    assert await early == {7: "Ada"}
    assert await late == {7: "Ada Lovelace"}


async def test_what_is_invalidated_by_its_key_cannot_be_restored_either(
    teams: Teams,
) -> None:
    entries = teams.results.entries
    slow = await entries.read("team:all")
    await teams.read()
    await teams.results.invalidate("team:all")

    assert not await entries.write(slow, b"[{}]")
    await teams.read()
    assert teams.loads == 2


async def test_an_index_of_the_same_namespace_reaches_what_was_read_through(
    teams: Teams, redis: Redis, tagged: str
) -> None:
    index = TagIndex(lambda: redis, tagged)
    await teams.read()
    assert (await index.read("team:all")).payload is not None

    assert await index.invalidate("user:7") == 1
    assert await teams.manager.invalidate_by_tags("user:7") == 0
    await teams.read()
    assert teams.loads == 2


async def test_200_readers_of_a_tagged_value_load_it_once(teams: Teams) -> None:
    read = await asyncio.gather(*(teams.read() for _ in range(200)))

    assert read == [{7: "Ada"}] * 200
    assert teams.loads == 1


async def test_what_cannot_be_decoded_is_loaded_anew_and_gives_way(
    teams: Teams,
) -> None:
    reading = await teams.manager.get("team:all")
    await teams.manager.set_with_tags(reading, b"of an older version", ttl=HOUR)

    assert await teams.read() == await teams.read() == await teams.read() == {7: "Ada"}
    assert teams.loads == 2
    assert teams.steps == ["decode"]


async def test_a_load_that_fails_stores_nothing(teams: Teams) -> None:
    async def fail() -> dict[int, str]:
        raise LookupError

    with pytest.raises(LookupError):
        await teams.results.get("team:all", fail)
    assert await teams.read() == {7: "Ada"}


async def test_while_redis_is_gone_all_is_loaded_and_the_invalidation_follows(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
    breakable: FakeRedisServer | PrivateRedisServer,
) -> None:
    teams = Teams(breakable.client(), "telephony:1", engine_and_sessions[1])
    await teams.read()

    with breakable.down():
        await teams.change()
        assert await teams.read() == {7: "Ada Lovelace"}
        assert teams.steps == ["read"]
    if isinstance(breakable, FakeRedisServer):
        assert await teams.read() == {7: "Ada"}  # the window: it has kept its memory
    teams.is_back.set()
    await teams.invalidation.drain()

    assert await teams.read() == {7: "Ada Lovelace"}
