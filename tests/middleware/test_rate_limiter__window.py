"""No window of the stated length has more than the limit, and no wait is too short."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from snippets.middleware.rate_limiter import RateLimiter, Verdict
from tests.support.redis_servers import RedisServer, fake_redis

SECOND = 1_000_000
"""In microseconds, as all times are in this file."""


@dataclass
class Clock:
    """The clock of fakeredis."""

    now: int = 1_700_000_000 * SECOND

    def time(self) -> float:
        """Return the time in seconds, as `time.time` does."""
        return self.now / SECOND


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until a test moves it."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock.time)
    return clock


@dataclass
class Model:
    """The same limit over a plain list of times, with no thought for cost."""

    limit: int
    window: int
    admitted: list[int] = field(default_factory=list)

    def held(self, now: int) -> list[int]:
        """Return what was admitted in the window that ends now."""
        return [time for time in self.admitted if now - self.window < time <= now]

    def fits(self, now: int, cost: int) -> bool:
        """Return whether a call could be admitted at that time."""
        return len(self.held(now)) + cost <= self.limit

    def check(self, now: int, cost: int) -> Verdict:
        """Return what must be answered."""
        held = self.held(now)
        moments = [now, *(time + self.window for time in held)]
        passes = next((moment for moment in moments if self.fits(moment, cost)), None)
        if passes == now:
            self.admitted += [now] * cost
            held = self.held(now)
        oldest = held[0] if held else now
        return Verdict(
            allowed=passes == now,
            limit=self.limit,
            remaining=self.limit - len(held),
            reset=seconds(oldest + self.window - now),
            retry_after=None if passes in (now, None) else seconds(passes - now),
        )


def seconds(microseconds: int) -> int:
    """Return whole seconds, rounded up."""
    whole, rest = divmod(microseconds, SECOND)
    return whole + (rest > 0)


PAUSES = st.sampled_from([0, 0, 1, SECOND // 3, SECOND, 5 * SECOND, 11 * SECOND])


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(0, 6),
    window=st.sampled_from([SECOND // 2, 10 * SECOND]),
    calls=st.lists(st.tuples(PAUSES, st.integers(1, 4)), max_size=25),
)
def test_it_answers_as_a_plain_list_would(
    limit: int, window: int, calls: list[tuple[int, int]]
) -> None:
    clock, model = Clock(), Model(limit, window)

    async def tell() -> None:
        async with fake_redis() as server:
            redis = server.client()
            limiter = RateLimiter(
                name="calls",
                limit=limit,
                window=window / SECOND,
                client=lambda: redis,
                on_outage="closed",
            )
            for pause, cost in calls:
                clock.now += pause
                answer = await limiter.check("acme", cost)
                assert answer == model.check(clock.now, cost)
                assert len(model.held(clock.now)) <= limit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", clock.time)
        asyncio.run(tell())


def limiter_of(redis: Redis, limit: int, window: float) -> RateLimiter:
    """Return a limiter."""
    return RateLimiter(
        name="calls",
        limit=limit,
        window=window,
        client=lambda: redis,
        on_outage="closed",
    )


@pytest.fixture
def fake(redis_backend: str, redis: Redis) -> Redis:
    """A client whose server has a clock to be moved."""
    assert redis_backend == "fakeredis"
    return redis


@pytest.mark.backends("fakeredis")
@pytest.mark.parametrize("window", [10.0, 0.5, 2.25])
@pytest.mark.parametrize("elapsed", [0, 1, SECOND // 7])
async def test_who_waits_as_long_as_told_passes_and_not_a_second_sooner(
    fake: Redis, clock: Clock, window: float, elapsed: int
) -> None:
    limiter = limiter_of(fake, 2, window)
    await limiter.check("acme", 2)
    clock.now += elapsed
    refused = await limiter.check("acme")
    assert refused.retry_after is not None

    clock.now += (refused.retry_after - 1) * SECOND
    assert not (await limiter.check("acme")).allowed
    clock.now += SECOND
    assert (await limiter.check("acme")).allowed


@pytest.mark.backends("fakeredis")
async def test_a_call_of_several_units_waits_until_all_fit(
    fake: Redis, clock: Clock
) -> None:
    limiter = limiter_of(fake, 3, 10)
    for _ in range(3):
        await limiter.check("acme")
        clock.now += 2 * SECOND

    refused = await limiter.check("acme", cost=2)

    assert (refused.retry_after, refused.reset) == (6, 4)
    clock.now += 6 * SECOND - 1
    assert not (await limiter.check("acme", cost=2)).allowed
    clock.now += 1
    assert (await limiter.check("acme", cost=2)).allowed


@pytest.mark.backends("fakeredis")
async def test_refused_calls_do_not_make_the_wait_longer(
    fake: Redis, clock: Clock
) -> None:
    limiter = limiter_of(fake, 1, 10)
    await limiter.check("acme")

    for left in range(9, 0, -1):
        clock.now += SECOND
        for _ in range(20):
            assert (await limiter.check("acme")).retry_after == left
    clock.now += SECOND
    assert (await limiter.check("acme")).allowed


@pytest.mark.backends("fakeredis")
async def test_no_burst_at_the_border_of_two_windows(fake: Redis, clock: Clock) -> None:
    limiter = limiter_of(fake, 100, 60)
    admitted = 0
    for _ in range(4):
        clock.now += 15 * SECOND - 1
        for _ in range(60):
            admitted += (await limiter.check("acme")).allowed

    assert admitted == 100


@pytest.mark.backends("fakeredis")
async def test_a_clock_that_is_set_back_admits_no_more(
    fake: Redis, clock: Clock
) -> None:
    limiter = limiter_of(fake, 3, 10)
    await limiter.check("acme", 2)

    clock.now -= 5 * SECOND
    assert (await limiter.check("acme")).allowed
    refused = await limiter.check("acme")

    assert (refused.allowed, refused.retry_after) == (False, 15)
    clock.now += 15 * SECOND
    assert (await limiter.check("acme", 3)).allowed


async def test_by_the_server_s_own_clock_no_window_has_more(
    redis: Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, window, key = 5, 0.25, f"{redis_server.namespace}:acme"
    newest: list[int] = []

    async def and_look(digest: str, keys: int, *arguments: str) -> object:
        async with redis.pipeline() as transaction:
            transaction.evalsha(digest, keys, *arguments)
            transaction.lindex(key, 0)
            answer, stamp = await transaction.execute()
        newest.append(int(stamp or 0))
        return answer

    limiter = RateLimiter(
        name=redis_server.namespace,
        limit=limit,
        window=window,
        client=lambda: redis,
        on_outage="closed",
    )
    await limiter.check("globex")  # so that Redis knows the script
    monkeypatch.setattr(redis, "evalsha", and_look)
    stamps: list[int] = []
    while len(stamps) < 4 * limit:
        verdict = await limiter.check("acme")
        assert verdict.is_counted
        stamps += newest[-1:] * verdict.allowed

    pairs = zip(stamps, stamps[limit:], strict=False)
    assert all(later - earlier >= window * SECOND for earlier, later in pairs)


@pytest.mark.backends("redis")
async def test_what_time_it_is_in_the_process_does_not_count(
    redis: Redis, redis_server: RedisServer, redis_backend: str
) -> None:
    assert redis_backend == "redis"
    limiter = RateLimiter(
        name=redis_server.namespace,
        limit=1,
        window=3600,
        client=lambda: redis,
        on_outage="closed",
    )
    await limiter.check("globex")  # connected, and the script is known
    before = await server_time(redis)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("time", "monotonic", "perf_counter"):
            clock = getattr(time, name)
            patch.setattr(time, name, lambda clock=clock: clock() + 1e6)
            clock_ns = getattr(time, f"{name}_ns")
            patch.setattr(time, f"{name}_ns", lambda clock=clock_ns: clock() + 10**15)
        admitted = await limiter.check("acme")
    after = await server_time(redis)
    stamp = await redis.lindex(f"{redis_server.namespace}:acme", 0)

    assert admitted.allowed
    assert stamp is not None
    assert before <= int(stamp) <= after
    assert not (await limiter.check("acme")).allowed


async def server_time(redis: Redis) -> int:
    """Return the time of Redis."""
    second, microsecond = await redis.time()
    return int(second) * SECOND + int(microsecond)


def test_the_model_itself_admits_no_more_in_any_window() -> None:
    model = Model(limit=3, window=10)
    for now, cost in zip(range(0, 200, 3), count(1), strict=False):
        model.check(now, cost % 3 + 1)

    assert model.admitted
    for end in range(200):
        assert len(model.held(end)) <= 3
