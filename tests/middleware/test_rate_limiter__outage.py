"""What becomes of calls while Redis is away is decided, told once, and seen."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from snippets.caching.redis_client import create_redis
from snippets.middleware.rate_limiter import _SCRIPT, RateLimiter, Verdict
from tests.support.redis_faults import GARBAGE, faulty_server
from tests.support.redis_servers import (
    NOWHERE,
    FakeRedisServer,
    PrivateRedisServer,
    fake_redis,
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


WRONG = GARBAGE | {
    "out of memory": b"-OOM not now\r\n",
    "busy": b"-BUSY\r\n",
    "too few numbers": b"+1 2 3\r\n",
    "too many numbers": b"+1 2 3 4 5\r\n",
    "numbers that are none": b"+1 2 3 x\r\n",
    "a fraction": b"+1 2 3 4.5\r\n",
    "a map": b"%1\r\n+a\r\n+b\r\n",
}


@pytest.mark.parametrize("policy", ["open", "closed"])
@pytest.mark.parametrize("reply", WRONG.values(), ids=WRONG)
async def test_a_redis_that_refuses_or_is_none_fails_no_call(
    service: Service, reply: bytes, policy: Policy
) -> None:
    async with (
        faulty_server(reply) as server,
        create_redis(server.url, timeout=PATIENCE) as redis,
        asyncio.timeout(PATIENCE),
    ):
        verdict = await service.limiter(redis, policy).check(CALLER)

    assert verdict == Verdict(allowed=policy == "open", is_counted=False)
    assert service.told == {"calls": 1}
    assert len(service.events) == 1


async def test_the_log_does_not_quote_what_redis_says_of_a_key(
    service: Service,
) -> None:
    reply = f"-WRONGTYPE no list at calls:{CALLER}\r\n".encode()
    async with (
        faulty_server(reply) as server,
        create_redis(server.url, timeout=PATIENCE) as redis,
        asyncio.timeout(PATIENCE),
    ):
        await service.limiter(redis).check(CALLER)

    [event] = service.events
    assert CALLER not in event


async def test_a_lost_answer_counts_once_unless_the_client_tries_again(
    service: Service,
) -> None:
    asked: list[int] = []
    for retries in (0, 1):
        async with faulty_server(hangs_up=True) as server:
            again = Retry(NoBackoff(), retries)
            untiring = Redis.from_url(server.url, protocol=2, retry=again)
            async with untiring if retries else create_redis(server.url) as redis:
                verdict = await service.limiter(redis).check(CALLER)
            assert not verdict.is_counted
            asked.append(server.commands)

    assert asked == [1, 2]


@pytest.mark.parametrize("cost", [3, 10**6, 10**309])
async def test_an_open_limiter_admits_nothing_that_never_fits(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service, cost: int
) -> None:
    limiter = service.limiter(breakable.client())
    refused = await limiter.check(CALLER, cost)
    with breakable.down():
        uncounted = await limiter.check(CALLER, cost)

    assert refused == Verdict(allowed=False, limit=2, remaining=2, reset=3600)
    assert uncounted == Verdict(allowed=False, is_counted=False)


async def test_hostile_keys_and_costs_are_no_outage(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service
) -> None:
    limiter = service.limiter(breakable.client())
    for key in ("\ud800", "\udfff\ud800", "\0", "\r\n", "x" * 100_000, "\u2028"):
        verdicts = [await limiter.check(key) for _ in range(3)]
        assert [one.allowed for one in verdicts] == [True, True, False]
        assert all(one.is_counted for one in verdicts)

    assert not service.told
    assert service.events == []


class _Late(FakeAsyncRedis):
    """A Redis whose first answer is held up."""

    def __init__(self, server: FakeServer) -> None:
        """Hold up the first answer until it is asked for."""
        super().__init__(server=server)
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def execute_command(self, *args: object, **options: object) -> object:
        """Answer, the first time not before it is asked for."""
        execute: Callable[..., Awaitable[object]] = super().execute_command
        answer = await execute(*args, **options)
        if not self.asked.is_set():
            self.asked.set()
            await self.may_answer.wait()
        return answer


async def test_a_check_that_began_before_an_outage_does_not_say_it_is_over(
    service: Service,
) -> None:
    server = FakeServer()
    redis = _Late(server)
    await FakeAsyncRedis(server=server).script_load(_SCRIPT)
    limiter = service.limiter(redis)
    early = asyncio.create_task(limiter.check(CALLER))
    await redis.asked.wait()
    server.connected = False
    await limiter.check(CALLER)
    redis.may_answer.set()
    assert (await early).is_counted
    state = limiter.is_available
    await limiter.check(CALLER)

    assert state is False
    assert len(service.events) == 1
    assert service.told == {"calls": 2}


async def test_a_hook_that_fails_is_logged_and_fails_no_call(
    service: Service,
) -> None:
    limiter = service.limiter(FakeAsyncRedis(connected=False))
    limiter.on_failure = dict[str, int]().__getitem__

    assert (await limiter.check(CALLER)).allowed
    assert service.events[1:] == ["the hook of rate limit calls failed"]


async def test_a_service_starts_without_redis(service: Service) -> None:
    async with create_redis(NOWHERE) as redis:
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
