"""While Redis is gone, slow or talking nonsense, only an invalidation is an error."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from snippets.caching.cache_manager import FAILURES, CacheManager
from snippets.caching.redis_client import create_redis
from tests.support.counters import count_round_trips
from tests.support.redis_faults import GARBAGE, faulty_server
from tests.support.redis_servers import FakeRedisServer, PrivateRedisServer
from tests.support.tagged import HOUR, kept, put

PATIENCE = 60
"""Seconds after which something hangs."""

INVALIDATIONS: list[Callable[[CacheManager], Awaitable[int]]] = [
    lambda manager: manager.invalidate_by_tags("acme"),
    lambda manager: manager.invalidate_pattern("*"),
]


@dataclass
class Told:
    """What the log and the metric were told."""

    log: pytest.LogCaptureFixture
    counted: Counter[str] = field(default_factory=Counter)

    def manager(self, redis: Redis) -> CacheManager:
        """Return a manager that tells."""
        return CacheManager(
            lambda: redis, "telephony:1", lambda step: self.counted.update([step])
        )

    def assert_once(self, step: str) -> None:
        """Require one record and one count, with no key, tag or value in them."""
        assert self.counted == {step: 1}
        (record,) = [one for one in self.log.records if one.name.startswith("snippets")]
        assert record.levelname == "WARNING"
        assert record.getMessage().startswith(f"cache manager {step}: ")
        for secret in ("user:7", "acme", "Ada", "telephony"):
            assert secret not in self.log.text


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """Nothing yet."""
    return Told(caplog)


async def test_while_redis_is_gone_a_read_is_a_miss_that_may_not_store(
    breakable: FakeRedisServer | PrivateRedisServer, told: Told
) -> None:
    manager = told.manager(breakable.client())
    await put(manager, "user:7", "acme")

    with breakable.down():
        reading = await manager.get("user:7")
    assert reading.payload is None
    told.assert_once("read")
    with count_round_trips() as trips:
        assert not await manager.set_with_tags(reading, b"Ada", "acme", ttl=HOUR)
    assert trips.total == 0


async def test_while_redis_is_gone_a_value_is_not_stored(
    breakable: FakeRedisServer | PrivateRedisServer, told: Told
) -> None:
    manager = told.manager(breakable.client())
    reading = await manager.get("user:7")

    with breakable.down():
        assert not await manager.set_with_tags(reading, b"Ada", "acme", ttl=HOUR)
    told.assert_once("write")
    assert await kept(manager, "user:7") == []
    assert await put(manager, "user:7", "acme")


@pytest.mark.parametrize("invalidate", INVALIDATIONS, ids=["tag", "pattern"])
async def test_an_invalidation_that_redis_did_not_get_raises_and_can_be_repeated(
    breakable: FakeRedisServer | PrivateRedisServer,
    invalidate: Callable[[CacheManager], Awaitable[int]],
    told: Told,
) -> None:
    manager = told.manager(breakable.client())
    await put(manager, "user:7", "acme")

    with breakable.down(), pytest.raises(RedisError):
        await invalidate(manager)
    assert not told.counted
    # A fake keeps its memory, and so the old value, until the invalidation is repeated.
    left = isinstance(breakable, FakeRedisServer)
    assert len(await kept(manager, "user:7")) == left
    assert await invalidate(manager) == left
    assert await kept(manager, "user:7") == []


async def test_a_server_that_never_answers_delays_a_call_by_one_time_limit(
    told: Told,
) -> None:
    async with (
        faulty_server() as silent,
        create_redis(silent.url, timeout=0.05) as redis,
        asyncio.timeout(PATIENCE),
    ):
        manager = told.manager(redis)
        reading = await manager.get("user:7")
        assert reading.payload is None
        assert silent.connections == 1  # each wait for an answer takes a new one
        told.assert_once("read")
        entitled = reading._replace(mark=1)
        assert not await manager.set_with_tags(entitled, b"Ada", "acme", ttl=HOUR)
        assert silent.connections == 2
        assert told.counted == {"read": 1, "write": 1}
        for number, invalidate in enumerate(INVALIDATIONS, start=3):
            with pytest.raises(RedisError):
                await invalidate(manager)
            assert silent.connections == number


@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE)
async def test_no_garbage_that_a_server_says_fails_a_reader_or_passes_for_success(
    reply: bytes, told: Told
) -> None:
    async with (
        faulty_server(reply) as server,
        create_redis(server.url, timeout=PATIENCE) as redis,
        asyncio.timeout(PATIENCE),
    ):
        manager = told.manager(redis)
        reading = await manager.get("user:7")
        assert reading.payload == (b"OK" if reply == GARBAGE["a status"] else None)
        await manager.set_with_tags(reading._replace(mark=1), b"Ada", "acme", ttl=HOUR)
        with pytest.raises(FAILURES):
            await manager.invalidate_by_tags("acme")


@pytest.mark.parametrize("ttl", [0, -1, 0.0001, float("inf"), float("nan")])
async def test_a_time_to_live_that_is_none_is_an_error_of_the_caller(
    told: Told, redis: Redis, ttl: float
) -> None:
    manager = told.manager(redis)
    with pytest.raises(ValueError, match="is not a time"):
        await put(manager, "user:7", ttl=ttl)
    with pytest.raises(ValueError, match="is not a time"):
        manager.entries(ttl=ttl, tags=lambda *_: ())
    assert not told.counted
