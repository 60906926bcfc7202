"""The same on a Redis Cluster of three nodes, which refuses what touches two slots."""

import asyncio
import tracemalloc
from itertools import pairwise
from typing import cast

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ResponseError

from snippets.caching.cache_key import CacheKey
from snippets.caching.cache_manager import CacheManager
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.key_patterns import literal
from tests.support.counters import count_round_trips
from tests.support.tagged import HOUR, fill, kept, put

pytestmark = pytest.mark.backends("redis")

MANY = 100_000
MEGABYTE = 1_000_000
BATCHES_AT_MOST = 4


@pytest.fixture
def tenants(cluster: RedisCluster) -> list[CacheManager]:
    """The managers of some tenants."""
    return [CacheManager(lambda: cluster, f"telephony:1:{n}") for n in range(20)]


async def test_tenants_are_spread_over_the_nodes_and_each_is_in_one_slot(
    cluster: RedisCluster, tenants: list[CacheManager]
) -> None:
    for manager in tenants:
        await put(manager, "user:7", "acme", "}{")
        await put(manager, "{user}:8", "acme")

    keys = {key async for key in cluster.scan_iter()}
    slots = {cluster.keyslot(key) for key in keys}
    assert len(keys) == len(tenants) * 5
    assert len(slots) == len(tenants)
    used = {cluster.nodes_manager.get_node_from_slot(slot).name for slot in slots}
    assert len(used) == 3


async def test_the_cluster_refuses_a_command_that_touches_two_slots(
    ports: list[int],
) -> None:
    async with Redis(port=ports[0]) as node:
        with pytest.raises(ResponseError, match="hash to the same slot"):
            await node.unlink("user:7", "user:8")


async def test_tags_and_patterns_reach_the_entries_of_their_tenant(
    tenants: list[CacheManager],
) -> None:
    for manager in tenants:
        await put(manager, "user:7", "acme", "user:7")
        await put(manager, "user:{8}", "acme")
        await put(manager, "user:*", "globex")
        await put(manager, "user:10", "globex")

    for manager in tenants[:10]:
        assert await manager.invalidate_by_tags("acme", "user:7") == 2
        assert await manager.invalidate_pattern(f"user:{literal('*')}") == 1
        assert await manager.invalidate_pattern("user:1?") == 1
    every = ["user:7", "user:{8}", "user:*", "user:10"]
    for manager in tenants[:10]:
        assert await kept(manager, *every) == []
    for manager in tenants[10:]:
        assert await kept(manager, *every) == every


async def test_a_reader_that_began_before_an_invalidation_cannot_store_the_old_value(
    tenants: list[CacheManager],
) -> None:
    for manager in tenants:
        slow, other = await manager.get("user:7"), await manager.get("user:8")
        assert await manager.invalidate_by_tags("acme") == 0

        assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)
        assert await manager.set_with_tags(other, b"Ada", "globex", ttl=HOUR)
        slow = await manager.get("user:7")
        assert await manager.invalidate_pattern("user:*") == 1
        assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)


async def test_guarded_entries_with_derived_keys_hold_in_every_slot(
    cluster: RedisCluster,
) -> None:
    async def get_user(user_id: int) -> bytes:
        return b"%d" % user_id

    key = CacheKey(get_user, "telephony:1", vary=None)
    redis = cast("Redis", cluster)  # which is the only client its types know
    entries = GuardedEntries(client=lambda: redis, ttl=HOUR)
    leased = GuardedEntries(client=lambda: redis, ttl=HOUR, lease=60)
    for number in range(30):
        slow = await entries.read(key(number))
        await entries.invalidate(key(number))
        assert not await entries.write(slow, b"old")
        new = await leased.read(key(number))
        assert not await entries.write(slow, b"old")
        assert await leased.write(new, await get_user(number))
        assert (await entries.read(key(number))).payload == b"%d" % number

    assert len({cluster.keyslot(key(number)) for number in range(30)}) > 20


async def test_100_000_entries_that_match_a_pattern_go_in_bounded_memory(
    cluster: RedisCluster, tenants: list[CacheManager]
) -> None:
    manager = tenants[0]
    await fill(cluster, "telephony:1:0", MANY, "calls")
    for each in tenants:
        await put(each, "user:7", "acme")

    tracemalloc.start()
    with count_round_trips() as trips:
        assert await manager.invalidate_pattern("call:*") == MANY
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert set(trips.commands) <= {"SCAN", "UNLINK"}
    assert trips.commands.count("UNLINK") >= MANY // 500
    assert peak < MEGABYTE
    for each in tenants:
        assert await kept(each, "call:1", "user:7") == ["user:7"]


async def test_of_100_000_entries_a_batch_goes_at_a_time_and_others_are_served(
    ports: list[int], cluster: RedisCluster, tenants: list[CacheManager]
) -> None:
    manager = tenants[0]
    await fill(cluster, "telephony:1:0", MANY, "calls")
    await put(manager, "user:7", "acme")
    is_done = asyncio.Event()
    answered: list[int] = []

    async with RedisCluster(host="127.0.0.1", port=ports[1]) as client:
        other = CacheManager(lambda: client, "telephony:1:0")  # of the same slot

        async def ask() -> None:
            while not is_done.is_set():
                assert (await other.get("user:7")).payload == b"user:7"
                answered.append(trips.commands.count("EVAL"))

        with count_round_trips() as trips:
            asking = asyncio.create_task(ask())
            tracemalloc.start()
            assert await manager.invalidate_by_tags("calls") == MANY
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            is_done.set()
            await asking

    batches = trips.commands.count("EVAL")
    assert batches == MANY // 500 + 1
    assert peak < MEGABYTE
    waits = (later - before for before, later in pairwise(answered))
    assert max(waits) <= BATCHES_AT_MOST  # which another client waited for
    assert await kept(manager, "call:1", f"call:{MANY}", "user:7") == ["user:7"]
