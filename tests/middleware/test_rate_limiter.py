"""Exactly the limit is admitted, in one round trip, whoever asks at once."""

import asyncio
from dataclasses import dataclass
from typing import Literal

import pytest
from redis.asyncio import Redis

from catalogue.plugin import Proof
from snippets.middleware.rate_limiter import RateLimiter, Verdict
from snippets.middleware.rate_limiter_naive import SortedSetLimiter
from tests.support.counters import count_round_trips
from tests.support.redis_servers import RedisServer, fake_redis, private_redis_server

HOUR = 3600.0


@dataclass
class Limits:
    """Makes limiters of one name, each with a client of its own."""

    server: RedisServer

    @property
    def name(self) -> str:
        """The name, and so the prefix of all keys."""
        return self.server.namespace

    def limiter(self, limit: int = 100, window: float = HOUR) -> RateLimiter:
        """Return a limiter as one more process would have it."""
        redis = self.server.client()
        return RateLimiter(
            name=self.name,
            limit=limit,
            window=window,
            client=lambda: redis,
            on_outage="closed",
        )


@pytest.fixture
def limits(redis_server: RedisServer) -> Limits:
    """Limiters with a name of this test's own."""
    return Limits(redis_server)


@pytest.mark.parametrize("at_a_time", [1, 10, 100])
async def test_of_200_calls_at_once_through_two_clients_exactly_100_pass(
    limits: Limits, at_a_time: int
) -> None:
    pair = limits.limiter(100), limits.limiter(100)
    limiters = [pair[number // at_a_time % 2] for number in range(200)]

    verdicts = await asyncio.gather(*(limiter.check("acme") for limiter in limiters))

    admitted = [one for one in verdicts if one.allowed]
    assert len(admitted) == 100
    assert sorted(one.remaining for one in admitted) == list(range(100))
    assert all(one.is_counted for one in verdicts)


async def test_calls_of_one_instant_are_counted_one_by_one(
    limits: Limits, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)  # which is fakeredis's clock
    limiter = limits.limiter(5)

    verdicts = await asyncio.gather(*(limiter.check("acme") for _ in range(20)))

    assert [one.allowed for one in verdicts].count(True) == 5
    assert await redis.llen(f"{limits.name}:acme") == 5


async def test_each_call_says_how_much_is_left(limits: Limits) -> None:
    limiter = limits.limiter(2, window=60)

    assert await limiter.check("acme") == Verdict(
        allowed=True, limit=2, remaining=1, reset=60
    )
    second = await limiter.check("acme")
    assert (second.allowed, second.remaining) == (True, 0)
    third = await limiter.check("acme")
    assert (third.allowed, third.remaining) == (False, 0)
    assert third.retry_after == third.reset
    assert 0 < third.reset <= 60


async def test_a_call_of_several_units_passes_whole_or_not_at_all(
    limits: Limits, redis: Redis
) -> None:
    limiter = limits.limiter(10)

    assert (await limiter.check("acme", cost=7)).remaining == 3
    refused = await limiter.check("acme", cost=4)
    assert (refused.allowed, refused.remaining) == (False, 3)
    assert await redis.llen(f"{limits.name}:acme") == 7
    assert (await limiter.check("acme", cost=3)).remaining == 0


async def test_of_many_calls_of_three_units_at_once_as_many_pass_as_fit(
    limits: Limits,
) -> None:
    limiter = limits.limiter(100)

    verdicts = await asyncio.gather(*(limiter.check("acme", 3) for _ in range(50)))

    assert [one.allowed for one in verdicts].count(True) == 33


async def test_a_limit_of_0_admits_nothing_and_promises_nothing(
    limits: Limits,
) -> None:
    verdict = await limits.limiter(0, window=60).check("acme")

    assert verdict == Verdict(allowed=False, limit=0, remaining=0, reset=60)


async def test_what_never_fits_is_told_no_time_to_wait(limits: Limits) -> None:
    verdict = await limits.limiter(5).check("acme", cost=6)

    assert (verdict.allowed, verdict.remaining) == (False, 5)
    assert verdict.retry_after is None


async def test_keys_and_names_are_counted_apart(
    limits: Limits, redis_server: RedisServer, redis: Redis
) -> None:
    limiter = limits.limiter(1)
    other = RateLimiter(
        name=f"{redis_server.namespace}-calls",
        limit=1,
        window=HOUR,
        client=lambda: redis,
        on_outage="closed",
    )
    for key in ("acme", "globex", "acme:", "{acme}", "*", "", "\0\r\n", "é" * 99):
        assert (await limiter.check(key)).allowed
        assert (await other.check(key)).allowed
        assert not (await limiter.check(key)).allowed


async def test_a_limit_that_was_lowered_holds_at_once(limits: Limits) -> None:
    for _ in range(10):
        await limits.limiter(10).check("acme")

    verdict = await limits.limiter(3).check("acme")

    assert (verdict.allowed, verdict.limit, verdict.remaining) == (False, 3, 0)
    assert verdict.retry_after is not None
    assert 0 < verdict.retry_after <= HOUR


async def test_keys_end_by_themselves(limits: Limits, redis: Redis) -> None:
    limiter = limits.limiter(1, window=60.0005)
    await limiter.check("acme")
    first = await redis.pttl(f"{limits.name}:acme")
    assert 0 < first <= 60_001

    await redis.pexpire(f"{limits.name}:acme", 30_000)
    await limiter.check("acme")  # refused, so it changes nothing
    assert await redis.pttl(f"{limits.name}:acme") <= 30_000


async def test_a_check_is_one_round_trip_and_two_where_the_script_is_new(
    redis_backend: str, proof: Proof
) -> None:
    start = fake_redis if redis_backend == "fakeredis" else private_redis_server
    async with start() as server:
        limiter = Limits(server).limiter(1)
        with count_round_trips() as unknown:
            await limiter.check("acme")
        with count_round_trips() as admitted:
            await limiter.check("globex")
        with count_round_trips() as refused:
            await limiter.check("globex")

    assert unknown.commands == ["EVALSHA", "EVAL"]
    assert admitted.commands == refused.commands == ["EVALSHA"]
    proof.cost("a check", round_trips=admitted.total)
    proof.cost("a check where Redis lost the script", round_trips=unknown.total)


@pytest.mark.backends("redis")
async def test_a_unit_takes_ten_bytes_of_redis(
    limits: Limits, redis: Redis, proof: Proof
) -> None:
    await limits.limiter(10_000).check("acme", cost=10_000)

    taken = await redis.memory_usage(f"{limits.name}:acme", samples=0)

    assert taken is not None
    assert taken <= 11 * 10_000
    proof.cost("10,000 units of one key", bytes_of_redis_up_to=110_000)


@pytest.mark.parametrize(
    ("name", "limit", "window", "on_outage"),
    [
        ("", 1, 1, "open"),
        ("a:b", 1, 1, "open"),
        ("calls\n", 1, 1, "open"),
        ("calls", -1, 1, "open"),
        ("calls", 1.5, 1, "open"),
        ("calls", True, 1, "open"),
        ("calls", 1, 0, "open"),
        ("calls", 1, 0.0009, "open"),
        ("calls", 2**32 + 1, 1, "open"),
        ("calls", 1, 1e20, "open"),
        ("calls", 1, float("inf"), "open"),
        ("calls", 1, float("nan"), "open"),
        ("calls", 1, 1, "ajar"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    name: str, limit: int, window: float, on_outage: Literal["open", "closed"]
) -> None:
    with pytest.raises(ValueError, match=r"digits|number of|window of|neither"):
        RateLimiter(
            name=name, limit=limit, window=window, client=Redis, on_outage=on_outage
        )


async def test_the_longest_window_and_the_largest_limit_are_counted_and_end(
    limits: Limits, redis: Redis
) -> None:
    limiter = limits.limiter(2**32, window=2.0**32)

    verdicts = [await limiter.check("acme", cost) for cost in (1, 2, 2**32 - 2)]

    assert [one.remaining for one in verdicts] == [2**32 - 1, 2**32 - 3, 2**32 - 3]
    assert [one.allowed for one in verdicts] == [True, True, False]
    assert 0 < (verdicts[2].retry_after or 0) <= 2**32
    assert 0 < await redis.pttl(f"{limits.name}:acme") <= 2**32 * 1000


@pytest.mark.parametrize("cost", [0, -1, True, 1.5, float("nan"), "1"])
async def test_a_call_costs_something(limits: Limits, cost: int) -> None:
    with pytest.raises(ValueError, match="cannot cost"):
        await limits.limiter().check("acme", cost)


async def test_the_naive_version_takes_calls_of_one_millisecond_for_one(
    redis: Redis, redis_server: RedisServer, proof: Proof
) -> None:
    limiter = SortedSetLimiter(redis, limit=5, window=60, clock=lambda: 1000.0)
    key = f"{redis_server.namespace}:acme"

    admitted = [await limiter.is_allowed(key) for _ in range(20)]

    assert all(admitted)
    proof.breaks("20 calls in one millisecond, at a limit of 5", "all 20 pass")


async def test_the_naive_version_makes_who_is_refused_wait_longer(
    redis: Redis, redis_server: RedisServer, proof: Proof
) -> None:
    now = 1000.0
    limiter = SortedSetLimiter(redis, limit=1, window=10, clock=lambda: now)
    key = f"{redis_server.namespace}:acme"

    assert await limiter.is_allowed(key)
    for _ in range(20):
        now += 5
        assert not await limiter.is_allowed(key)
    proof.breaks(
        "A caller asks every 5 s for what is allowed every 10 s",
        "it passes once, and then never again",
    )
