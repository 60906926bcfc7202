"""The backends that tests run on, as fixtures; `catalogue.plugin` chooses which."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from catalogue.plugin import note_server
from tests.support.databases import (
    create_engine,
    empty_postgresql,
    postgresql_database,
    postgresql_version,
    sqlite_database,
)
from tests.support.rabbitmq import (
    AnyBroker,
    PrivateBrokerServer,
    RealBrokerServer,
    memory_broker,
    private_node,
    real_broker,
)
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    RealRedisServer,
    fake_redis,
    private_redis_server,
    real_redis,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine

# That the machine is busy is no counter-example.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def postgresql_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """A PostgreSQL database of this session's own."""
    with asyncio.Runner() as runner:
        database = postgresql_database()
        url = runner.run(database.__aenter__())
        number = runner.run(postgresql_version())
        note_server(pytestconfig, "postgresql", "PostgreSQL", number)
        yield url
        runner.run(database.__aexit__(None, None, None))


@pytest.fixture
def server_url(request: pytest.FixtureRequest, database_backend: str) -> str:
    """The session's PostgreSQL database if the test wants it; otherwise nothing."""
    if database_backend == "sqlite":
        return ""
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
async def database_url(
    server_url: str, tmp_path: Path, pytestconfig: pytest.Config
) -> AsyncIterator[str]:
    """An empty database: a new SQLite file, or a PostgreSQL database emptied after."""
    if not server_url:
        note_server(pytestconfig, "sqlite", "SQLite", sqlite3.sqlite_version)
        async with sqlite_database(tmp_path) as url:
            yield url
    else:
        yield server_url
        await empty_postgresql(server_url)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on this test's database, disposed of afterwards."""
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def redis_server(
    redis_backend: str, pytestconfig: pytest.Config
) -> AsyncIterator[FakeRedisServer | RealRedisServer]:
    """A Redis with a key prefix of this test's own."""
    if redis_backend == "fakeredis":
        async with fake_redis() as fake:
            yield fake
    else:
        async with real_redis() as real:
            information = await real.client().info("server")
            note_server(pytestconfig, "redis", "Redis", information["redis_version"])
            yield real


@pytest.fixture
async def redis(redis_server: FakeRedisServer | RealRedisServer) -> Redis:
    """A client of this test's Redis."""
    return redis_server.client()


@pytest.fixture
async def private_redis() -> AsyncIterator[PrivateRedisServer]:
    """A Redis process that this test may stop; ask for `redis_backend` beside it."""
    async with private_redis_server() as server:
        yield server


@pytest.fixture
async def broker_server(
    broker_backend: str, pytestconfig: pytest.Config
) -> AsyncIterator[AnyBroker]:
    """A broker with a prefix of this test's own for queues and exchanges."""
    if broker_backend == "memory":
        async with memory_broker() as memory:
            yield memory
    else:
        async with real_broker() as real:
            note_server(pytestconfig, "rabbitmq", "RabbitMQ", await real.version())
            yield real


@pytest.fixture
async def rabbitmq(
    broker_backend: str, pytestconfig: pytest.Config
) -> AsyncIterator[RealBrokerServer]:
    """The shared RabbitMQ, for tests marked to run on nothing else."""
    assert broker_backend == "rabbitmq"
    async with real_broker() as real:
        note_server(pytestconfig, "rabbitmq", "RabbitMQ", await real.version())
        yield real


@pytest.fixture(scope="session")
def rabbitmq_node(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[PrivateBrokerServer]:
    """A RabbitMQ node of this session's own; it takes some 15 seconds to start."""
    with private_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture
def private_rabbitmq(rabbitmq_node: PrivateBrokerServer) -> PrivateBrokerServer:
    """A running node that this test may stop; ask for `broker_backend` beside it."""
    rabbitmq_node.rename()
    if rabbitmq_node.process is None:
        rabbitmq_node.start()
    return rabbitmq_node
