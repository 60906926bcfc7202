"""Refreshed values keep their types, and work with the patterns that they stand on."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from signal import SIGCONT, SIGSTOP
from types import UnionType
from uuid import UUID

import pytest
from redis.asyncio import Redis

from snippets.caching.codec import Codec
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.redis_client import create_redis
from snippets.caching.stale_refresh import StaleRefresh
from tests.support.redis_faults import faulty_server
from tests.support.redis_servers import PrivateRedisServer, RedisServer, hasty
from tests.support.stale_refresh import (
    ADA,
    ADA_MARRIED,
    DUE,
    LEASE,
    TTL,
    Load,
    Service,
    User,
)


class OldThenNew:
    """A load of a value that changes after its first load."""

    def __init__(self, old: object, new: object) -> None:
        """Keep both."""
        self.results = [new, old]

    async def __call__(self) -> object:
        """Return the next result."""
        return self.results.pop()


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (str, "123", ""),
        (str | None, None, "null"),
        (bool, False, True),
        (bytes, b"\x00\xff", b""),
        (Decimal, Decimal("1.10"), Decimal(0)),
        (datetime, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        (UUID, UUID(int=7), UUID(int=8)),
        (dict[int, tuple[str, ...]], {7: ("1001",)}, {}),
        (list[str], ['[["', "0" * 13], ["\u20ac\x00\U0001f4de"]),
        (User, ADA, ADA_MARRIED),
    ],
)
async def test_the_old_and_the_new_value_keep_their_types(
    redis: Redis,
    redis_server: RedisServer,
    kind: type[object] | UnionType,
    old: object,
    new: object,
) -> None:
    now = 1000
    key, load = f"{redis_server.namespace}:value", OldThenNew(old, new)
    values = StaleRefresh[object](
        name="values",
        kind=kind,
        entries=GuardedEntries(client=lambda: redis, ttl=TTL, lease=LEASE),
        lease=LEASE,
        clock=lambda: now,
    )

    for moment, expected in ((1000, old), (1239, old), (1240, old), (1241, new)):
        now = moment
        async with values:
            found = await values.get(key, load)
        assert found == expected
        assert type(found) is type(expected)


async def test_a_value_takes_49_bytes_more_than_its_code(
    redis: Redis, redis_server: RedisServer
) -> None:
    key = f"{redis_server.namespace}:user:7"
    entry_and_mark = len(Codec(User).encode(ADA)) + len("=")

    await Service().users(redis).get(key, Load.of(ADA))

    assert await redis.strlen(key) == entry_and_mark + 49


async def test_whoever_invalidates_the_guarded_entry_stops_the_refresh(
    redis: Redis, redis_server: RedisServer
) -> None:
    service, key = Service(), f"{redis_server.namespace}:user:7"
    users = service.users(redis)
    another_program = GuardedEntries(client=redis_server.client, ttl=TTL)
    old = Load.held(ADA)

    await users.get(key, Load.of(ADA))
    service.now += DUE
    async with users:
        await users.get(key, old)
        await old.begun.wait()
        await another_program.invalidate(key)
        old.gate.set()

    assert (await another_program.read(key)).payload is None
    assert await users.get(key, Load.of(ADA_MARRIED)) == ADA_MARRIED


async def test_a_redis_that_never_answers_delays_a_reader_by_one_time_limit() -> None:
    service = Service()
    async with faulty_server() as silent:
        async with create_redis(silent.url, timeout=0.1) as redis:
            users = service.users(redis)
            async with asyncio.timeout(60), users:
                assert await users.get("user:7", Load.of(ADA)) == ADA

        assert silent.connections == 1
    assert service.told == {("users", "read"): 1}


@pytest.mark.backends("redis")
async def test_a_redis_that_stands_still_during_a_refresh_delays_no_reader(
    redis_backend: str, private_redis: PrivateRedisServer
) -> None:
    assert redis_backend == "redis"
    service, load = Service(), Load.held(ADA_MARRIED)
    async with (
        asyncio.timeout(60),
        create_redis(private_redis.url, pool_size=1, timeout=60) as redis,
        service.users(redis) as users,
    ):
        await users.get("user:7", Load.of(ADA))
        service.now += DUE
        assert await users.get("user:7", load) == ADA
        await load.begun.wait()
        assert private_redis.process is not None

        async with hasty(redis):
            private_redis.process.send_signal(SIGSTOP)
            try:
                load.gate.set()
                async with users:
                    pass
            finally:
                private_redis.process.send_signal(SIGCONT)

        assert service.told == {("users", "refresh"): 1}
