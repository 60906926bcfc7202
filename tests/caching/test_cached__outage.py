"""A cached function answers while Redis is gone, slow or talking nonsense."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from signal import SIGCONT, SIGSTOP

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from snippets.caching.cached import Cache, Cached, cached
from snippets.caching.redis_client import create_redis
from tests.support.counters import count_round_trips
from tests.support.redis_faults import faulty_server
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    hasty,
)

PATIENCE = 60
"""Seconds after which something hangs."""

EMAIL = "ada@example.com"


@dataclass
class Directory:
    """Users by e-mail address, and what was told of failures."""

    log: pytest.LogCaptureFixture
    told: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    before_answer: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def cached(self, redis: Redis, lease: float | None = None) -> Cached[[str], str]:
        """Return a cached look-up."""
        cache = Cache(
            client=lambda: redis,
            namespace="telephony:1",
            on_failure=lambda _, step: self.told.update([step]),
        )

        @cached(cache, ttl=300, vary=None, lease=lease)
        async def number_of(email: str) -> str:
            self.runs += 1
            self.asked.set()
            if self.before_answer is not None:
                await self.before_answer.wait()
            return f"tel:{email}"

        return number_of

    def assert_told_once(self, step: str) -> None:
        """Require one metric and one log record, without argument, key or result."""
        assert self.told == {step: 1}
        (record,) = [one for one in self.log.records if one.name != "asyncio"]
        assert record.getMessage().startswith(f"cache {step} of ")
        assert EMAIL not in self.log.text
        assert "telephony:1" not in self.log.text


@pytest.fixture
def directory(caplog: pytest.LogCaptureFixture) -> Directory:
    """Nobody has asked yet."""
    return Directory(caplog)


@pytest.mark.parametrize("lease", [None, 60])
async def test_while_redis_is_down_the_function_runs_and_it_is_told_once(
    breakable: FakeRedisServer | PrivateRedisServer,
    directory: Directory,
    lease: float | None,
) -> None:
    number_of = directory.cached(breakable.client(), lease)
    await number_of(EMAIL)

    with breakable.down(), count_round_trips() as trips:
        assert await number_of(EMAIL) == f"tel:{EMAIL}"

    assert directory.runs == 2
    assert trips.total <= 1  # after one failure it is not tried again
    directory.assert_told_once("read")


@pytest.mark.parametrize("lease", [None, 60])
async def test_when_redis_goes_down_meanwhile_the_result_is_returned_and_told_once(
    breakable: FakeRedisServer | PrivateRedisServer,
    directory: Directory,
    lease: float | None,
) -> None:
    number_of = directory.cached(breakable.client(), lease)
    directory.before_answer = asyncio.Event()
    caller = asyncio.create_task(number_of(EMAIL))
    await directory.asked.wait()

    with breakable.down():
        directory.before_answer.set()
        assert await caller == f"tel:{EMAIL}"

    assert directory.runs == 1
    directory.assert_told_once("write")


async def test_an_error_of_the_function_is_not_taken_for_one_of_redis(
    breakable: FakeRedisServer | PrivateRedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis = breakable.client()

    @cached(Cache(client=lambda: redis, namespace="telephony:1"), ttl=300, vary=None)
    async def number_of(email: str) -> str:
        raise RedisError(email)

    with pytest.raises(RedisError, match=EMAIL):
        await number_of(EMAIL)
    assert not caplog.records


async def test_an_invalidation_that_redis_did_not_get_raises(
    breakable: FakeRedisServer | PrivateRedisServer, directory: Directory
) -> None:
    number_of = directory.cached(breakable.client())

    with breakable.down(), pytest.raises(RedisError):
        await number_of.invalidate(EMAIL)


async def test_a_redis_that_never_answers_costs_one_time_limit(
    directory: Directory,
) -> None:
    async with faulty_server() as silent:
        async with create_redis(silent.url, timeout=0.1) as redis:
            async with asyncio.timeout(PATIENCE):
                assert await directory.cached(redis)(EMAIL) == f"tel:{EMAIL}"

        assert silent.connections == 1
    directory.assert_told_once("read")


async def test_a_server_that_is_no_redis_fails_no_call(directory: Directory) -> None:
    async with (
        faulty_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server,
        create_redis(server.url) as redis,
    ):
        assert await directory.cached(redis)(EMAIL) == f"tel:{EMAIL}"

    directory.assert_told_once("read")


@pytest.mark.backends("redis")
async def test_a_redis_that_stands_still_costs_one_time_limit(
    redis_backend: str, private_redis: PrivateRedisServer, directory: Directory
) -> None:
    assert redis_backend == "redis"
    async with create_redis(private_redis.url, pool_size=1, timeout=PATIENCE) as redis:
        number_of = directory.cached(redis)
        await number_of(EMAIL)
        assert private_redis.process is not None

        async with hasty(redis):
            private_redis.process.send_signal(SIGSTOP)
            try:
                with count_round_trips() as trips:
                    async with asyncio.timeout(PATIENCE):
                        assert await number_of(EMAIL) == f"tel:{EMAIL}"
            finally:
                private_redis.process.send_signal(SIGCONT)

    assert trips.commands == ["GET"]
    directory.assert_told_once("read")


async def test_when_redis_is_back_results_are_kept_again(
    breakable: FakeRedisServer | PrivateRedisServer, directory: Directory
) -> None:
    number_of = directory.cached(breakable.client())
    with breakable.down():
        await number_of(EMAIL)

    await number_of(EMAIL)
    await number_of(EMAIL)

    assert directory.runs == 2  # one while it was down, one miss, one hit
