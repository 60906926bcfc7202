"""On a Redis Cluster each key is counted exactly, in one round trip to its node."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import RedisCluster

from snippets.middleware.rate_limiter import RateLimiter
from tests.support.counters import count_round_trips
from tests.support.redis_cluster import NODES, redis_cluster

pytestmark = pytest.mark.backends("redis")


@pytest.fixture(scope="module")
def ports(
    redis_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[int]]:
    """The ports of a cluster of this module's own."""
    assert redis_backend
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as ports:
        yield ports


@pytest.fixture
async def clients(ports: list[int]) -> AsyncIterator[list[RedisCluster]]:
    """Two clients of the cluster, which is emptied afterwards."""
    clients = [await RedisCluster(host="127.0.0.1", port=port) for port in ports[:2]]
    yield clients
    await clients[0].flushall(target_nodes=RedisCluster.PRIMARIES)
    for client in clients:
        await client.aclose()


def limiter_of(cluster: RedisCluster, limit: int) -> RateLimiter:
    """Return a limiter on the cluster."""
    return RateLimiter(
        name="calls",
        limit=limit,
        window=3600,
        client=lambda: cluster,
        on_outage="closed",
    )


async def test_of_200_calls_at_once_through_two_clients_exactly_100_pass(
    clients: list[RedisCluster],
) -> None:
    limiters = [limiter_of(client, 100) for client in clients]

    verdicts = await asyncio.gather(
        *(limiters[number % 2].check("acme") for number in range(200))
    )

    assert all(one.is_counted for one in verdicts)
    assert [one.allowed for one in verdicts].count(True) == 100


async def test_keys_of_all_nodes_are_counted_in_one_round_trip_each(
    clients: list[RedisCluster],
) -> None:
    limiter = limiter_of(clients[0], 2)
    tenants = [f"tenant-{number}" for number in range(30)]
    for tenant in tenants:
        assert (await limiter.check(tenant)).remaining == 1

    with count_round_trips() as trips:
        for tenant in tenants:
            assert (await limiter.check(tenant)).remaining == 0

    assert trips.commands == ["EVALSHA"] * len(tenants)
    keys = [f"calls:{tenant}" for tenant in tenants]
    assert len({clients[0].get_node_from_key(key) for key in keys}) == NODES
    assert not (await limiter.check(tenants[0])).allowed


async def test_a_cluster_that_is_not_there_is_an_outage(ports: list[int]) -> None:
    assert ports
    nowhere = RedisCluster(host="127.0.0.1", port=1)
    verdict = await limiter_of(nowhere, 2).check("acme")

    assert (verdict.allowed, verdict.is_counted) == (False, False)
