"""A request that changes a row has its event published after it was answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from faststream.rabbit import RabbitQueue
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.database.async_session import session_scope
from snippets.messaging.events import EventRegistry
from snippets.messaging.outbox import OutboxBase, OutboxMessage, enqueue
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.outbox_wiring import (
    FORWARD,
    Base,
    Extension,
    Forwarded,
    create_app,
)
from snippets.messaging.rabbit_broker import make_broker
from tests.support.background import nothing_left_running
from tests.support.outbox import blocked, events
from tests.support.rabbitmq import RealBrokerServer, proxy

HEADERS = {"x-correlation-id": "request-1"}
NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


@pytest.fixture
async def tables(engine: AsyncEngine) -> AsyncEngine:
    """An engine on a database with the tables of the service."""
    async with engine.begin() as connection:
        for base in (Base, OutboxBase):
            await connection.run_sync(base.metadata.create_all)
    return engine


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application inside the block; yield its client."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://pbx") as client,
    ):
        yield client


async def told(engine: AsyncEngine) -> list[tuple[int, str]]:
    """Return the versions and targets that the events tell of, in their order."""
    registry = EventRegistry()
    registry.register("extension.forwarded")(Forwarded)
    query = sa.select(OutboxMessage.body).order_by(OutboxMessage.id)
    async with engine.connect() as connection:
        events = [registry.decode(one) for one in await connection.scalars(query)]
    return [(one.data.version, one.data.to) for one in events]


@pytest.mark.backends("rabbitmq")
async def test_a_change_is_published_and_what_is_refused_is_not(
    tables: AsyncEngine, rabbitmq: RealBrokerServer, database_url: str
) -> None:
    topic, queue = events(rabbitmq.name("events")), rabbitmq.name("directory")
    broker = make_broker(rabbitmq.url)
    async with rabbitmq.running(broker):
        declared = await broker.declare_queue(RabbitQueue(queue))
        await declared.bind(await broker.declare_exchange(topic), "extension.#")
    app = create_app(database_url, rabbitmq.url, topic)
    async with serving(app) as client:
        for url, to, headers in (
            ("/extensions/1001", "1009", {"x-correlation-id": "a\tb"}),
            ("/extensions/1001", "1009", {"x-correlation-id": "c" * 129}),
            ("/extensions/1001", "1009", {}),
            ("/extensions/x", "1009", HEADERS),
            ("/extensions/1001", "*.#", HEADERS),
        ):
            refused = await client.put(url, json={"to": to}, headers=headers)
            assert refused.status_code == 422
        body = {"to": "1009"}
        changed = await client.put("/extensions/1001", json=body, headers=HEADERS)
        assert changed.status_code == 204
        message = await rabbitmq.take(queue)
    assert (message.routing_key, message.correlation_id) == (
        "extension.forwarded.acme",
        "request-1",
    )
    assert await rabbitmq.depth(queue) == 0
    assert await told(tables) == [(1, "1009")]


async def test_changes_of_one_number_at_once_are_told_in_the_order_of_their_commits(
    tables: AsyncEngine, database_url: str
) -> None:
    """None of them fails, not even while the number is new to all."""
    app = create_app(database_url, NOWHERE, events("events"))
    async with serving(app) as client, asyncio.timeout(30):
        changes = [
            client.put(
                "/extensions/1001", json={"to": str(1100 + one)}, headers=HEADERS
            )
            for one in range(8)
        ]
        assert [one.status_code for one in await asyncio.gather(*changes)] == [204] * 8
    found = await told(tables)
    assert [version for version, _ in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    async with tables.connect() as connection:
        row = (await connection.execute(sa.select(Extension.__table__))).one()
    assert (row.version, row.forwards_to) == found[-1]


@pytest.mark.backends("postgresql")
async def test_a_change_to_what_it_was_is_in_the_order_of_commits_too(
    tables: AsyncEngine, database_url: str
) -> None:
    app = create_app(database_url, NOWHERE, events("events"))
    same = {"number": "1001", "to": "1111"}
    async with serving(app) as client, asyncio.timeout(30):
        await client.put("/extensions/1001", json={"to": "1111"}, headers=HEADERS)
        async with session_scope(app.state.sessions) as session:
            version = await session.scalar(sa.text(FORWARD), same)
            body = {"to": "2222"}
            other = asyncio.create_task(
                client.put("/extensions/1001", json=body, headers=HEADERS)
            )
            await blocked(tables)
            registry = EventRegistry()
            registry.register("extension.forwarded")(Forwarded)
            data = Forwarded(**same, version=version)
            event = registry.new(data, tenant="acme", correlation_id="request-2")
            await enqueue(session, event, key="extension:1001")
        assert (await other).status_code == 204
    assert await told(tables) == [(1, "1111"), (2, "1111"), (3, "2222")]


@pytest.mark.backends("rabbitmq")
@pytest.mark.usefixtures("tables")
async def test_requests_do_not_need_rabbitmq_and_are_told_when_it_is_there(
    rabbitmq: RealBrokerServer,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic, queue = events(rabbitmq.name("events")), rabbitmq.name("directory")
    broker = make_broker(rabbitmq.url)
    async with rabbitmq.running(broker):
        declared = await broker.declare_queue(RabbitQueue(queue))
        await declared.bind(await broker.declare_exchange(topic), "extension.#")
    async with proxy(rabbitmq) as (between, url), asyncio.timeout(30):
        await between.cut()
        async with serving(create_app(database_url, url, topic)) as client:
            body = {"to": "1009"}
            changed = await client.put("/extensions/1001", json=body, headers=HEADERS)
            assert changed.status_code == 204
            await between.open()
            message = await rabbitmq.take(queue)
    assert message.correlation_id == "request-1"
    assert "guest" not in caplog.text


@pytest.mark.usefixtures("tables")
async def test_an_application_that_ends_while_rabbitmq_is_away_leaves_nothing_behind(
    database_url: str,
) -> None:
    app = create_app(database_url, NOWHERE, events("events"))
    async with nothing_left_running():
        with pytest.raises(LookupError):
            async with serving(app):
                raise LookupError


@pytest.mark.backends("rabbitmq")
@pytest.mark.usefixtures("tables")
async def test_a_relay_that_ends_says_so(
    rabbitmq: RealBrokerServer,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = asyncio.Event()

    async def end(_: OutboxRelay) -> None:
        ended.set()
        raise ArithmeticError

    monkeypatch.setattr(OutboxRelay, "run", end)
    topic = events(rabbitmq.name("events"))
    async with serving(create_app(database_url, rabbitmq.url, topic)):
        async with asyncio.timeout(20):
            await ended.wait()
    (record,) = [one for one in caplog.records if one.levelname == "CRITICAL"]
    assert record.message == "the relay has ended"
    assert record.exc_info is not None
    assert record.exc_info[0] is ArithmeticError
