"""What becomes of calls while Redis is away is decided, told once, and seen."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from snippets.caching.redis_client import create_redis
from snippets.middleware.rate_limiter import RateLimiter, Verdict
from tests.support.redis_faults import faulty_server
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    fake_redis,
    free_port,
    private_redis_server,
)

PATIENCE = 60
"""Seconds after which something hangs."""

CALLER = "ada@example.com"

Policy = Literal["open", "closed"]


@dataclass
class Service:
    """A limiter, and what was told of its failures."""

    log: pytest.LogCaptureFixture
    told: Counter[str] = field(default_factory=Counter)

    def limiter(self, redis: Redis, on_outage: Policy = "open") -> RateLimiter:
        """Return a limiter of two calls."""
        return RateLimiter(
            name="calls",
            limit=2,
            window=3600,
            client=lambda: redis,
            on_outage=on_outage,
            on_failure=lambda name: self.told.update([name]),
        )

    @property
    def events(self) -> list[str]:
        """What was logged, which never has a caller in it."""
        records = [one for one in self.log.records if one.name != "asyncio"]
        assert CALLER not in self.log.text
        return [record.getMessage() for record in records]


@pytest.fixture
def service(caplog: pytest.LogCaptureFixture) -> Service:
    """Nothing has failed yet."""
    return Service(caplog)


@pytest.fixture
async def breakable(
    redis_backend: str,
) -> AsyncIterator[FakeRedisServer | PrivateRedisServer]:
    """A Redis that may be taken down."""
    start = fake_redis if redis_backend == "fakeredis" else private_redis_server
    async with start() as server:
        yield server


@pytest.mark.parametrize("policy", ["open", "closed"])
async def test_while_redis_is_away_the_policy_decides_and_says_so(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service, policy: Policy
) -> None:
    limiter = service.limiter(breakable.client(), policy)
    seen = [(await limiter.check(CALLER)).is_counted, limiter.is_available]

    with breakable.down():
        verdict = await limiter.check(CALLER)

    assert verdict == Verdict(allowed=policy == "open", is_counted=False)
    assert [*seen, limiter.is_available] == [True, True, False]
    assert service.told == {"calls": 1}
    [event] = service.events
    assert event.startswith("rate limit calls is away: ")


async def test_an_outage_is_logged_once_and_each_uncounted_call_is_counted(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service
) -> None:
    limiter = service.limiter(breakable.client())
    with breakable.down():
        await asyncio.gather(*(limiter.check(CALLER) for _ in range(20)))

    assert service.told == {"calls": 20}
    assert len(service.events) == 1


async def test_when_redis_is_back_calls_are_counted_again(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service
) -> None:
    limiter = service.limiter(breakable.client(), "closed")
    for outage in (1, 2):
        with breakable.down():
            await limiter.check(CALLER)
        verdict = await limiter.check(f"{CALLER}-{outage}")
        assert (verdict.allowed, verdict.remaining) == (True, 1)
        assert limiter.is_available
        assert len(service.events) == outage


async def test_a_redis_that_never_answers_costs_one_time_limit(
    service: Service,
) -> None:
    async with (
        faulty_server() as silent,
        create_redis(silent.url, timeout=0.1) as redis,
    ):
        async with asyncio.timeout(PATIENCE):
            verdict = await service.limiter(redis).check(CALLER)

    assert not verdict.is_counted
    assert silent.connections == 1
    assert service.told == {"calls": 1}


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-OOM not now\r\n", b"-BUSY\r\n"]
)
async def test_a_redis_that_refuses_or_is_none_fails_no_call(
    service: Service, reply: bytes
) -> None:
    async with faulty_server(reply) as server, create_redis(server.url) as redis:
        verdict = await service.limiter(redis, "closed").check(CALLER)

    assert verdict == Verdict(allowed=False, is_counted=False)


async def test_a_service_starts_without_redis(service: Service) -> None:
    async with create_redis(f"redis://127.0.0.1:{free_port()}/0") as redis:
        assert (await service.limiter(redis).check(CALLER)).allowed


async def test_a_key_of_another_kind_is_a_failure_and_no_admission(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service
) -> None:
    redis = breakable.client()
    await redis.set(f"calls:{CALLER}", "x")

    verdict = await service.limiter(redis, "closed").check(CALLER)

    assert verdict == Verdict(allowed=False, is_counted=False)
    assert service.told == {"calls": 1}


class _Standing(FakeAsyncRedis):
    """A Redis that stands still."""

    def __init__(self) -> None:
        """Begin to stand."""
        super().__init__()
        self.asked = asyncio.Event()

    async def execute_command(self, *_: object, **__: object) -> object:
        """Wait for ever."""
        self.asked.set()
        return await asyncio.Event().wait()


async def test_a_cancelled_check_is_cancelled_and_no_outage(service: Service) -> None:
    redis = _Standing()
    limiter = service.limiter(redis)
    check = asyncio.create_task(limiter.check(CALLER))
    await redis.asked.wait()
    check.cancel()
    await asyncio.wait([check])

    assert check.cancelled()
    assert limiter.is_available
    assert not service.told
