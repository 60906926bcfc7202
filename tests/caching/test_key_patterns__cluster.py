"""Keys that are spread over a Redis Cluster, which refuses what touches two slots."""

import pytest
from redis.asyncio import RedisCluster

from snippets.caching.key_patterns import delete_matching, literal

pytestmark = pytest.mark.backends("redis")


async def test_keys_of_all_slots_are_deleted_and_no_others(
    cluster: RedisCluster,
) -> None:
    for number in range(1234):
        await cluster.set(f"telephony:1:user:{number}", "x")
        if number < 100:
            await cluster.set(f"billing:1:user:{number}", "x")

    assert await delete_matching(cluster, "telephony:1:", "user:1") == 1
    assert await delete_matching(cluster, "telephony:1:", "user:*") == 1233
    keys = {key async for key in cluster.scan_iter()}  # which may yield one twice
    assert len(keys) == 100


async def test_a_hostile_name_stands_for_itself(cluster: RedisCluster) -> None:
    names = ["*", "{*}", "a", "{a}", "[a]", "\\*", "{"]
    for name in names:
        await cluster.set(f"user:{name}", "x")

    for name in names:
        assert await delete_matching(cluster, "user:", literal(name)) == 1
    assert await delete_matching(cluster, "user:", "*") == 0


async def test_a_client_that_has_not_connected_yet_will_do(ports: list[int]) -> None:
    client = RedisCluster(host="127.0.0.1", port=ports[1])
    assert await delete_matching(client, "user:", "*") == 0
    await client.aclose()
