"""No late writer restores what was invalidated, and one process at a time loads."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from catalogue.plugin import Proof
from snippets.caching.guarded_entry import JITTER, GuardedEntries, Reading
from snippets.caching.guarded_entry_naive import PlainEntries
from tests.support.counters import count_round_trips
from tests.support.redis_servers import RedisServer

HOUR = 3600.0
MINUTE_MS = 60_000


@dataclass
class Clock:
    """A clock that goes only when somebody sleeps by it."""

    now: float = 1000.0
    sleeps: list[float] = field(default_factory=list)
    when_asleep: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let the time pass, and something happen meanwhile."""
        self.sleeps.append(seconds)
        self.now += seconds
        happening = self.when_asleep()
        if isinstance(happening, asyncio.Future):
            await happening


@pytest.fixture(params=[None, 60.0], ids=["no lease", "lease"])
def entries(redis: Redis, request: pytest.FixtureRequest) -> GuardedEntries:
    """Entries for an hour, without a lease and with one."""
    return GuardedEntries(client=lambda: redis, ttl=HOUR, lease=request.param)


async def test_what_was_written_is_read(entries: GuardedEntries, key: str) -> None:
    assert await entries.write(await entries.read(key), b"Ada")

    assert (await entries.read(key)).payload == b"Ada"


@pytest.mark.parametrize(
    "payload", [b"", b"=", b"?", b"!", b"\x00\xff\r\n", b"Ada" * 999]
)
async def test_a_value_may_be_any_bytes(
    entries: GuardedEntries, key: str, payload: bytes
) -> None:
    await entries.write(await entries.read(key), payload)

    assert (await entries.read(key)).payload == payload


async def test_a_reader_that_began_before_an_invalidation_cannot_restore_the_old_value(
    entries: GuardedEntries, key: str
) -> None:
    slow = await entries.read(key)
    await entries.invalidate(key)

    assert not await entries.write(slow, b"old")
    assert (await entries.read(key)).payload is None


async def test_nor_after_a_later_reader_has_stored_the_new_value(
    entries: GuardedEntries, key: str
) -> None:
    slow = await entries.read(key)
    await entries.invalidate(key)
    assert await entries.write(await entries.read(key), b"new")

    assert not await entries.write(slow, b"old")
    assert (await entries.read(key)).payload == b"new"


async def test_nor_after_a_second_invalidation(
    entries: GuardedEntries, key: str
) -> None:
    await entries.invalidate(key)
    slow = await entries.read(key)
    await entries.invalidate(key)

    assert not await entries.write(slow, b"old")


async def test_nor_through_another_client(
    entries: GuardedEntries, redis_server: RedisServer, key: str
) -> None:
    other_redis = redis_server.client()
    other = GuardedEntries(client=lambda: other_redis, ttl=HOUR, lease=entries.lease)
    slow = await other.read(key)
    await entries.invalidate(key)

    assert not await other.write(slow, b"old")


async def test_nor_when_the_marks_have_gone_meanwhile(redis: Redis, key: str) -> None:
    clock = Clock()
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR, clock=clock)
    slow = await entries.read(key)
    await entries.invalidate(key)
    clock.now += HOUR * (1 - JITTER) / 2 + 1
    await redis.delete(key)  # as the end of its life does, half an hour later

    await entries.write(slow, b"old")
    assert (await entries.read(key)).payload is None


async def test_what_comes_too_late_to_be_stored_is_still_told_of_a_change(
    redis: Redis, key: str
) -> None:
    clock = Clock()
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR, clock=clock)
    slow = await entries.read(key)
    clock.now += HOUR / 2

    assert await entries.write(slow, b"old")
    assert (await entries.read(key)).payload is None
    await entries.invalidate(key)
    assert not await entries.write(slow, b"old")
    await redis.delete(key)  # as the end of the mark's life does
    clock.now += HOUR / 2
    assert not await entries.write(slow, b"old")


async def test_a_lease_needs_no_clock_for_that(redis: Redis, key: str) -> None:
    clock = Clock()
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR, lease=60, clock=clock)
    slow = await entries.read(key)
    await entries.invalidate(key)
    await redis.delete(key)  # evicted, say

    assert not await entries.write(slow, b"old")
    holder = await entries.read(key)
    clock.now += 10 * HOUR  # by which the lease would be over, were it not for Redis
    assert await entries.write(holder, b"new")


async def test_who_has_a_lease_and_who_has_none_must_not_share_a_key(
    redis: Redis, key: str
) -> None:
    without = GuardedEntries(client=lambda: redis, ttl=HOUR)
    with_lease = GuardedEntries(client=lambda: redis, ttl=HOUR, lease=60)
    slow = await without.read(key)
    await without.invalidate(key)
    holder = await with_lease.read(key)  # a lease takes the place of the mark
    await with_lease.write(holder, None)

    assert await without.write(slow, b"old")


async def test_who_keeps_entries_for_other_times_must_not_share_a_key(
    redis: Redis, key: str
) -> None:
    clock = Clock()
    hourly = GuardedEntries(client=lambda: redis, ttl=HOUR, clock=clock)
    slow = await hourly.read(key)
    await GuardedEntries(client=lambda: redis, ttl=60).invalidate(key)
    assert await redis.pttl(key) <= MINUTE_MS
    await redis.delete(key)  # as the end of the mark's life does, in a minute
    clock.now += 61

    assert await hourly.write(slow, b"old")


async def test_giving_up_without_a_lease_leaves_the_mark(
    redis: Redis, key: str
) -> None:
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR)
    slow = await entries.read(key)
    await entries.invalidate(key)
    failed = await entries.read(key)

    await entries.write(failed, None)
    assert not await entries.write(slow, b"old")


async def test_giving_up_does_not_remove_a_value(redis: Redis, key: str) -> None:
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR)
    await entries.write(await entries.read(key), b"Ada")

    await entries.write(await entries.read(key), None)
    assert (await entries.read(key)).payload == b"Ada"


async def test_a_load_of_half_the_shortest_life_is_still_stored(
    redis: Redis, key: str
) -> None:
    clock = Clock()
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR, clock=clock)
    reading = await entries.read(key)
    clock.now += HOUR * (1 - JITTER) / 2 - 1

    assert await entries.write(reading, b"Ada")


async def test_a_value_written_meanwhile_is_not_overwritten(
    redis: Redis, key: str
) -> None:
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR)
    first, second = await entries.read(key), await entries.read(key)

    assert await entries.write(first, b"first")
    assert not await entries.write(second, b"second")
    assert (await entries.read(key)).payload == b"first"


async def test_a_value_that_cannot_be_used_may_be_replaced(
    entries: GuardedEntries, redis: Redis, key: str
) -> None:
    await redis.set(key, b"=nonsense")
    reading = await entries.read(key)

    assert reading.payload == b"nonsense"
    assert await entries.write(reading, b"Ada")
    assert (await entries.read(key)).payload == b"Ada"


async def test_bytes_of_another_program_are_not_a_value(redis: Redis, key: str) -> None:
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR)
    await redis.set(key, b"Ada")
    reading = await entries.read(key)

    assert reading.payload is None
    assert await entries.write(reading, b"Grace")


@pytest.mark.parametrize(("spread", "share"), [(0.0, 1.0), (0.5, 0.95), (1.0, 0.9)])
async def test_entries_live_between_nine_tenths_of_the_ttl_and_the_ttl(
    redis: Redis, key: str, spread: float, share: float
) -> None:
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR, spread=lambda: spread)

    await entries.write(await entries.read(key), b"Ada")

    life = round(HOUR * share * 1000)
    assert life - MINUTE_MS < await redis.pttl(key) <= life


async def test_everything_that_is_left_behind_ends_by_itself(
    redis: Redis, key: str
) -> None:
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR, lease=60)

    reading = await entries.read(key)
    assert 0 < await redis.pttl(key) <= MINUTE_MS
    await entries.write(reading, b"Ada")
    assert MINUTE_MS < await redis.pttl(key) <= HOUR * 1000
    await entries.invalidate(key)
    assert HOUR * 1000 - MINUTE_MS < await redis.pttl(key) <= HOUR * 1000


async def test_what_reading_and_writing_cost(
    redis: Redis, key: str, proof: Proof
) -> None:
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR)
    leased = GuardedEntries(client=lambda: redis, ttl=HOUR, lease=60)
    await redis.ping()

    for each, trips in ((entries, 2), (leased, 3)):
        with count_round_trips() as miss:
            await each.write(await each.read(key), b"Ada")
        with count_round_trips() as hit:
            await each.read(key)
        with count_round_trips() as invalidation:
            await each.invalidate(key)

        assert miss.total == trips
        assert (hit.total, hit.commands) == (1, ["GET"])
        assert invalidation.total == 1
    proof.cost("hit", round_trips=1)
    proof.cost("miss", round_trips=2)
    proof.cost("miss with a lease", round_trips=3)
    proof.cost("invalidation", round_trips=1)


async def test_while_one_loads_the_others_wait_for_its_value(
    redis: Redis, key: str
) -> None:
    clock = Clock()
    leased = GuardedEntries(
        client=lambda: redis, ttl=HOUR, lease=60, clock=clock, sleep=clock.sleep
    )
    leader = await leased.read(key)
    assert leader.payload is None

    def third_look() -> object:
        if len(clock.sleeps) < 3:
            return None
        return asyncio.ensure_future(leased.write(leader, b"Ada"))

    clock.when_asleep = third_look
    waiter = await leased.read(key)

    assert waiter.payload == b"Ada"
    assert len(clock.sleeps) == 3


@pytest.mark.parametrize("end", ["gives up", "dies"])
async def test_when_the_leader_does_not_store_exactly_one_waiter_takes_over(
    redis: Redis, key: str, end: str
) -> None:
    clock = Clock()
    leased = GuardedEntries(
        client=lambda: redis, ttl=HOUR, lease=60, clock=clock, sleep=clock.sleep
    )
    leader = await leased.read(key)
    if end == "gives up":
        await leased.write(leader, None)
    else:
        await redis.delete(key)  # a lease that nobody gives up ends by itself

    readings = [leased.read(key) for _ in range(2)]
    first = await readings[0]
    assert first.payload is None
    assert not clock.sleeps  # it takes over at once
    clock.when_asleep = lambda: asyncio.ensure_future(leased.write(first, b"Ada"))
    second = await readings[1]

    assert second.payload == b"Ada"


async def test_of_two_who_see_nothing_at_once_one_takes_the_lease(
    redis_server: RedisServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    both_have_looked = asyncio.Barrier(2)
    leaders: list[Reading] = []

    async def read(redis: Redis) -> Reading:
        get = redis.get

        async def look_together(key: str) -> bytes | str | None:
            monkeypatch.setattr(redis, "get", get)  # the first look only
            found = await get(key)
            await both_have_looked.wait()
            return found

        monkeypatch.setattr(redis, "get", look_together)
        leased = GuardedEntries(
            client=lambda: redis, ttl=HOUR, lease=60, clock=clock, sleep=clock.sleep
        )
        reading = await leased.read(key)
        if reading.payload is None:
            leaders.append(reading)
            clock.when_asleep = lambda: asyncio.ensure_future(
                leased.write(reading, b"Ada")
            )
        return reading

    clients = redis_server.client(), redis_server.client()
    readings = await asyncio.gather(*map(read, clients))

    assert len(leaders) == 1
    assert {reading.payload for reading in readings} == {None, b"Ada"}


async def test_a_lease_that_ran_out_gives_no_right_to_write(
    redis: Redis, key: str
) -> None:
    leased = GuardedEntries(client=lambda: redis, ttl=HOUR, lease=60)
    slow = await leased.read(key)
    await redis.delete(key)  # as the end of the lease does
    quick = await leased.read(key)

    assert not await leased.write(slow, b"slow")
    assert not await leased.write(slow, None)
    assert await leased.write(quick, b"quick")


async def test_nobody_waits_for_more_than_two_leases(redis: Redis, key: str) -> None:
    clock = Clock()
    leased = GuardedEntries(
        client=lambda: redis, ttl=HOUR, lease=60, clock=clock, sleep=clock.sleep
    )
    await leased.read(key)
    began = clock.now

    waiter = await leased.read(key)  # the fake clock is not that of Redis

    assert waiter.payload is None
    assert 120 < clock.now - began < 121
    assert await leased.write(waiter, b"Ada")


@pytest.mark.parametrize("end", ["gives up", "dies"])
async def test_who_saw_nothing_when_it_gave_up_waiting_has_no_right_to_write(
    redis: Redis, key: str, end: str
) -> None:
    clock = Clock()

    def process() -> GuardedEntries:
        return GuardedEntries(
            client=lambda: redis, ttl=HOUR, lease=60, clock=clock, sleep=clock.sleep
        )

    await process().read(key)  # it dies

    def die_at_last() -> object:
        over = clock.now > 1120
        return asyncio.ensure_future(redis.delete(key)) if over else None

    clock.when_asleep = die_at_last
    slow = await process().read(key)
    clock.when_asleep = lambda: None
    await process().invalidate(key)
    later = await process().read(key)  # its lease takes the place of the mark
    if end == "gives up":
        await process().write(later, None)
    else:
        await redis.delete(key)  # as the end of the lease does

    assert slow.payload is None
    assert not await process().write(slow, b"old")
    assert not await process().write(slow, None)
    assert await redis.get(key) is None


async def test_who_is_cancelled_while_it_takes_the_lease_gives_it_back(
    redis_server: RedisServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = redis_server.client()
    leased = GuardedEntries(client=lambda: redis, ttl=HOUR, lease=HOUR)
    taken, replace = asyncio.Event(), redis.eval

    async def eval_without_answer(script: str, keys: int, *arguments: str) -> object:
        monkeypatch.setattr(redis, "eval", replace)
        await replace(script, keys, *arguments)
        taken.set()
        return await asyncio.Event().wait()

    monkeypatch.setattr(redis, "eval", eval_without_answer)
    reader = asyncio.create_task(leased.read(key))
    await taken.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert await redis.get(key) is None


@pytest.mark.parametrize(
    "seconds", [0, -1, 0.0001, 3.2e9, 1e16, float("inf"), float("nan")]
)
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        GuardedEntries(client=Redis, ttl=seconds)
    with pytest.raises(ValueError, match="is not a time"):
        GuardedEntries(client=Redis, ttl=HOUR, lease=seconds)


async def test_a_client_that_decodes_responses_is_refused(
    redis_server: RedisServer, redis: Redis, key: str
) -> None:
    decoding = redis_server.client(decode_responses=True)
    entries = GuardedEntries(client=lambda: decoding, ttl=HOUR)
    await redis.set(key, b"=Ada")

    with pytest.raises(TypeError, match="does not decode"):
        await entries.read(key)


async def test_a_key_of_another_kind_raises_what_redis_says(
    entries: GuardedEntries, redis: Redis, key: str
) -> None:
    await redis.lpush(key, "1001")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await entries.read(key)


async def test_naive_entries_are_restored_by_a_slow_reader(
    redis: Redis, key: str, proof: Proof
) -> None:
    naive = PlainEntries(redis, ttl=300)
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def load_old() -> bytes:
        has_begun.set()
        await may_end.wait()
        return b"old"

    async def load_new() -> bytes:
        return b"new"

    slow = asyncio.create_task(naive.get(key, load_old))
    await has_begun.wait()
    await naive.invalidate(key)
    may_end.set()
    await slow

    assert await naive.get(key, load_new) == b"old"
    proof.breaks(
        "A user is changed and invalidated while a slow reader loads",
        "the old user is stored, and served until its time is over",
    )


async def test_a_naive_lock_is_removed_by_who_no_longer_holds_it(
    redis: Redis, key: str, proof: Proof
) -> None:
    naive = PlainEntries(redis, ttl=300)
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def load() -> bytes:
        has_begun.set()
        await may_end.wait()
        return b"Ada"

    slow = asyncio.create_task(naive.get(key, load))
    await has_begun.wait()
    await redis.set(f"{key}:lock", "another process", ex=10)  # the first ran out
    may_end.set()
    await slow

    assert await redis.get(f"{key}:lock") is None
    proof.breaks(
        "A load takes longer than its lock lives, and another process takes the lock",
        "the first one deletes the lock of the other",
    )
