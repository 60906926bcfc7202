"""What the tests of several caching patterns use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.asyncio import RedisCluster

from tests.support.commit_invalidation import database_with_ada
from tests.support.redis_cluster import redis_cluster
from tests.support.redis_faults import tcp_server
from tests.support.redis_servers import fake_redis, private_redis_server
from tests.support.servers import address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.support.commit_invalidation import Sessions
    from tests.support.redis_servers import (
        FakeRedisServer,
        PrivateRedisServer,
        RedisServer,
    )


@pytest.fixture
def key(redis_server: RedisServer) -> str:
    """The key of a user."""
    return f"{redis_server.namespace}:user:7"


@pytest.fixture
def redis_url(redis_backend: str) -> Iterator[str]:
    """The URL of a Redis that answers."""
    if redis_backend == "redis":
        yield address("REDIS_URL")
        return
    with tcp_server() as url:
        yield url


@pytest.fixture
async def breakable(
    redis_backend: str,
) -> AsyncIterator[FakeRedisServer | PrivateRedisServer]:
    """A Redis that may be taken down."""
    start = fake_redis if redis_backend == "fakeredis" else private_redis_server
    async with start() as server:
        yield server


@pytest.fixture
async def tagged(redis_server: RedisServer, redis: Redis) -> AsyncIterator[str]:
    """A namespace for values with tags, which is emptied afterwards."""
    yield redis_server.namespace
    async for each in redis.scan_iter(f"{{{redis_server.namespace}*", count=1000):
        await redis.unlink(each)


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """A database with one user."""
    async with database_with_ada(database_url) as both:
        yield both


@pytest.fixture(scope="session")
def ports(
    redis_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[int]]:
    """The ports of a cluster of this session's own."""
    assert redis_backend
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as ports:
        yield ports


@pytest.fixture
async def cluster(ports: list[int]) -> AsyncIterator[RedisCluster]:
    """A client of the cluster, which is emptied afterwards."""
    async with RedisCluster(host="127.0.0.1", port=ports[0]) as client:
        yield client
        await client.flushall(target_nodes=RedisCluster.PRIMARIES)
