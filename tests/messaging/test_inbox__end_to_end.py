"""A request changes a row, and a read model in another process follows, once."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.database.async_session import create_engine_and_sessions
from snippets.messaging import inbox_wiring, outbox_wiring
from snippets.messaging.events import EventRegistry
from snippets.messaging.inbox import InboxBase, InboxEntry
from snippets.messaging.inbox_wiring import Directory, start_consumer
from snippets.messaging.outbox import OutboxBase, OutboxMessage
from snippets.messaging.outbox_wiring import create_app
from snippets.messaging.rabbit_broker import (
    Outgoing,
    make_broker,
    publish_confirmed,
)
from tests.support.background import nothing_left_running
from tests.support.outbox import events, publish_without_id
from tests.support.rabbitmq import RealBrokerServer

ROOT = Path(__file__).parents[2]
CORRELATION = "c" * 127 + "~"

pytestmark = pytest.mark.backends("rabbitmq")


@pytest.fixture
async def tables(engine: AsyncEngine) -> AsyncEngine:
    """An engine on a database with the tables of both services."""
    for base in (outbox_wiring.Base, OutboxBase, inbox_wiring.Base, InboxBase):
        async with engine.begin() as connection:
            await connection.run_sync(base.metadata.create_all)
    return engine


def name_queues(server: RealBrokerServer) -> str:
    """Have the consumer's queues deleted afterwards; return its name."""
    for suffix in ("dead", "replay", *(f"retry.{one}" for one in (1, 2, 3))):
        server.name(f"directory.{suffix}")
    for attempt in (2, 3, 4):
        server.name(f"directory.attempt.{attempt}")
    return server.name("directory")


@asynccontextmanager
async def directory_service(*arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run the consumer as a process; yield what it prints, and end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.directory_service",
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout
        process.stdin.close()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def wait_for(output: asyncio.StreamReader, text: str) -> str:
    """Return the next line that has this in it."""
    async with asyncio.timeout(60):
        while text not in (line := (await output.readline()).decode()):
            assert line, "the consumer has ended"
    return line


async def test_a_change_reaches_a_read_model_in_another_process_exactly_once(
    tables: AsyncEngine,
    rabbitmq: RealBrokerServer,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "snippets")
    topic, queue = events(rabbitmq.name("events")), name_queues(rabbitmq)
    app = create_app(database_url, rabbitmq.url, topic)
    transport = httpx.ASGITransport(app=app)
    arguments = (database_url, rabbitmq.url, topic.name, queue)
    async with directory_service(*arguments) as output:
        await wait_for(output, "ready")
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(
                transport=transport, base_url="http://pbx"
            ) as client:
                headers = {"x-correlation-id": CORRELATION}
                body = {"to": "1009"}
                url = "/extensions/1001"
                response = await client.put(url, json=body, headers=headers)
                assert response.status_code == 204
                refused = await client.put(url, json=body)
                assert refused.status_code == 422
            taken_in = await wait_for(output, "taken in")

        # The same event once more, as a relay that died would publish it.
        async with tables.connect() as connection:
            row = (await connection.execute(sa.select(OutboxMessage.__table__))).one()
        broker = make_broker(rabbitmq.url)
        async with rabbitmq.running(broker):
            copy = Outgoing(
                body=row.body,
                message_id=str(row.message_id),
                routing_key=row.routing_key,
                exchange=topic,
            )
            await publish_confirmed(broker, copy)
            known = await wait_for(output, "known")

    async with tables.connect() as connection:
        (entry,) = await connection.execute(sa.select(Directory.__table__))
    assert tuple(entry) == ("1001", "1009", 1, 1)
    log = [*caplog.messages, taken_in, known]
    told = [line for line in log if CORRELATION in line and "HTTP" not in line]
    assert [line.partition(" ")[0] for line in told] == [
        "forwarded",
        "published",
        "snippets.messaging.inbox_wiring:",
        "snippets.messaging.inbox_wiring:",
    ]


async def test_a_message_without_an_id_or_an_event_is_kept_as_a_dead_letter(
    tables: AsyncEngine, rabbitmq: RealBrokerServer, database_url: str
) -> None:
    topic, name = events(rabbitmq.name("events")), name_queues(rabbitmq)
    engine, sessions = create_engine_and_sessions(database_url)
    duplicates = Counter("duplicates", "Known messages", registry=CollectorRegistry())
    registry = EventRegistry()
    registry.register("extension.forwarded")(outbox_wiring.Forwarded)
    data = outbox_wiring.Forwarded(number="1001", to="1009", version=1)
    event = registry.new(data, tenant="acme", correlation_id="request-1")
    outgoing = Outgoing(
        body=event.encode(),
        message_id=str(event.event_id),
        routing_key=event.routing_key,
        exchange=topic,
    )
    broker = await start_consumer(rabbitmq.url, sessions, topic.name, name, duplicates)
    try:
        async with rabbitmq.channel() as channel:
            await publish_without_id(channel, topic.name, outgoing)
        await publish_confirmed(broker, replace(outgoing, body=b"{}", message_id="m1"))
        await rabbitmq.wait_for_depth(f"{name}.dead", 2)
        errors = [await error_of(rabbitmq, f"{name}.dead") for _ in range(2)]
        assert errors == ["RejectMessage", "EventError"]
        for _ in range(3):
            await publish_confirmed(broker, outgoing)
        await rabbitmq.wait_for_depth(name, 0)
    finally:
        await broker.stop()
    await engine.dispose()
    async with tables.connect() as connection:
        (entry,) = await connection.execute(sa.select(Directory.__table__))
    assert tuple(entry) == ("1001", "1009", 1, 1)
    (metric,) = duplicates.collect()
    assert metric.samples[0].value == 2


async def test_a_change_that_is_taken_in_after_a_newer_one_does_not_undo_it(
    tables: AsyncEngine, rabbitmq: RealBrokerServer, database_url: str
) -> None:
    topic, name = events(rabbitmq.name("events")), name_queues(rabbitmq)
    engine, sessions = create_engine_and_sessions(database_url)
    duplicates = Counter("duplicates", "Known messages", registry=CollectorRegistry())
    registry = EventRegistry()
    registry.register("extension.forwarded")(outbox_wiring.Forwarded)
    failures: list[str] = []

    def fail(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO inbox") and not failures:
            failures.append(statement)
            raise OperationalError("canary-4f1c", None, OSError())

    sa.event.listen(engine.sync_engine, "before_cursor_execute", fail)
    broker = await start_consumer(rabbitmq.url, sessions, topic.name, name, duplicates)
    try:
        for version, to in enumerate(("old", "new"), 1):
            data = outbox_wiring.Forwarded(number="1001", to=to, version=version)
            event = registry.new(data, tenant="acme", correlation_id="request-1")
            outgoing = Outgoing(
                body=event.encode(),
                message_id=str(event.event_id),
                routing_key=event.routing_key,
                exchange=topic,
            )
            await publish_confirmed(broker, outgoing)
        async with asyncio.timeout(20), tables.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            taken_in = sa.select(sa.func.count()).select_from(InboxEntry)
            while await connection.scalar(taken_in) != 2:
                pass
            (entry,) = await connection.execute(sa.select(Directory.__table__))
    finally:
        await broker.stop()
    await engine.dispose()
    assert len(failures) == 1
    assert tuple(entry) == ("1001", "new", 2, 2)


async def test_a_consumer_that_cannot_start_leaves_nothing_behind(
    rabbitmq: RealBrokerServer, database_url: str
) -> None:
    engine, sessions = create_engine_and_sessions(database_url)
    topic, name = rabbitmq.name("events"), name_queues(rabbitmq)
    async with rabbitmq.channel() as channel:
        await channel.declare_queue(name, durable=True)  # of another type
    counter = Counter("duplicates", "Known messages", registry=CollectorRegistry())
    async with nothing_left_running():
        with pytest.raises(Exception, match="arg 'x-dead-letter-exchange'"):
            await start_consumer(rabbitmq.url, sessions, topic, name, counter)
    await engine.dispose()


async def error_of(server: RealBrokerServer, queue: str) -> str:
    """Take a dead letter; return why it is one."""
    message = await server.take(queue)
    return str(message.headers["x-failed-last-error"]).split()[0]
