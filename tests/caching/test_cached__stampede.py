"""Callers who miss at once: one execution, whatever becomes of the one that runs it."""

import asyncio
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from catalogue.plugin import Proof
from snippets.caching.cached import Cache, Cached, cached
from tests.support.counters import count_round_trips
from tests.support.redis_servers import RedisServer


@dataclass
class Directory:
    """A slow directory of users."""

    outcomes: list[str | Exception]
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    questions: int = 0
    open_questions: int = 0
    most_open: int = 0

    async def ask(self) -> str:
        """Answer with the next outcome, the last one for ever."""
        outcome = self.outcomes[min(self.questions, len(self.outcomes) - 1)]
        self.questions += 1
        self.open_questions += 1
        self.most_open = max(self.most_open, self.open_questions)
        self.asked.set()
        try:
            await self.may_answer.wait()
        finally:
            self.open_questions -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture(params=[None, 60.0], ids=["no lease", "lease"])
def cache_and_lease(
    redis: Redis, redis_server: RedisServer, request: pytest.FixtureRequest
) -> tuple[Cache, float | None]:
    """A cache, and whether its functions take leases."""
    cache = Cache(client=lambda: redis, namespace=redis_server.namespace)
    return cache, request.param


def name_of(
    directory: Directory, cache_and_lease: tuple[Cache, float | None]
) -> Cached[[int], str]:
    """Return a cached function that asks the directory."""
    cache, lease = cache_and_lease

    @cached(cache, ttl=300, vary=None, lease=lease)
    async def name(user_id: int) -> str:
        return f"{await directory.ask()} {user_id}"

    return name


async def start(
    name: Cached[[int], str], directory: Directory, callers: int
) -> list[asyncio.Task[str]]:
    """Let so many callers ask for one user, and return when the directory is asked."""
    tasks = [asyncio.create_task(name(7)) for _ in range(callers)]
    await directory.asked.wait()
    return tasks


Fixture = tuple[Cache, float | None]


async def test_200_callers_who_miss_at_once_run_the_function_once(
    cache_and_lease: Fixture, proof: Proof
) -> None:
    directory = Directory(["Ada"])
    name = name_of(directory, cache_and_lease)

    with count_round_trips() as trips:
        callers = await start(name, directory, 200)
        directory.may_answer.set()
        assert await asyncio.gather(*callers) == ["Ada 7"] * 200

    assert directory.questions == 1
    assert trips.total == (2 if cache_and_lease[1] is None else 3)
    if cache_and_lease[1] is None:
        proof.cost("200 misses at once", round_trips=2, executions=1)


async def test_cancelling_one_of_the_waiters_cancels_nobody_else(
    cache_and_lease: Fixture,
) -> None:
    directory = Directory(["Ada"])
    callers = await start(name_of(directory, cache_and_lease), directory, 10)

    callers[5].cancel()
    await asyncio.wait([callers[5]])
    directory.may_answer.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert callers[5].cancelled()
    assert results[:5] + results[6:] == ["Ada 7"] * 9
    assert directory.questions == 1


async def test_when_the_leader_is_cancelled_exactly_one_caller_takes_over(
    cache_and_lease: Fixture,
) -> None:
    directory = Directory(["Ada"])
    callers = await start(name_of(directory, cache_and_lease), directory, 200)

    callers[0].cancel()
    await asyncio.wait([callers[0]])
    directory.may_answer.set()

    assert await asyncio.gather(*callers[1:]) == ["Ada 7"] * 199
    assert (directory.questions, directory.most_open) == (2, 1)


async def test_when_the_leader_fails_exactly_one_caller_tries_again(
    cache_and_lease: Fixture,
) -> None:
    directory = Directory([OSError("down"), "Ada"])
    callers = await start(name_of(directory, cache_and_lease), directory, 200)

    directory.may_answer.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(results[0], OSError)
    assert results[1:] == ["Ada 7"] * 199
    assert (directory.questions, directory.most_open) == (2, 1)


async def test_when_the_function_goes_on_failing_nobody_hangs(
    cache_and_lease: Fixture,
) -> None:
    directory = Directory([OSError("first"), OSError("second")])
    name = name_of(directory, cache_and_lease)
    callers = await start(name, directory, 200)

    directory.may_answer.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [str(result) for result in results] == ["first"] + ["second"] * 199
    assert directory.questions == 2


async def test_after_the_stampede_everything_is_a_hit(cache_and_lease: Fixture) -> None:
    directory = Directory(["Ada"])
    name = name_of(directory, cache_and_lease)
    callers = await start(name, directory, 20)
    directory.may_answer.set()
    await asyncio.gather(*callers)

    assert await asyncio.gather(*(name(7) for _ in range(20))) == ["Ada 7"] * 20
    assert directory.questions == 1


async def test_callers_for_different_users_do_not_wait_for_one_another(
    cache_and_lease: Fixture,
) -> None:
    cache, lease = cache_and_lease
    all_are_in = asyncio.Barrier(10)

    @cached(cache, ttl=300, vary=None, lease=lease)
    async def name(user_id: int) -> str:
        await all_are_in.wait()
        return f"user {user_id}"

    names = await asyncio.gather(*(name(number) for number in range(10)))

    assert names == [f"user {number}" for number in range(10)]
