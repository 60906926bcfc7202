"""Whatever dies between two writes, each commit has its effect once."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from faststream.rabbit import RabbitQueue

from snippets.messaging.rabbit_broker import make_broker, publish_confirmed
from tests.support.crash_steps import (
    COMMITTED,
    REDELIVERED,
    REPEATED,
    STEPS,
    Crasher,
    CrashingReader,
)
from tests.support.outbox import (
    LEASE,
    Reader,
    Service,
    again,
    events,
    publisher,
    service,
)
from tests.support.rabbitmq import AnyBroker, RealBrokerServer, collect

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def pbx(database_url: str) -> AsyncIterator[Service]:
    """Both services on an empty database."""
    async with service(database_url) as both:
        yield both


def die(*arguments: str) -> None:
    """Run the process that dies at a step."""
    command = [sys.executable, "-m", "tests.support.crash_steps", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


async def locks_are_gone(pbx: Service) -> None:
    """Wait until the database has noticed that the process is dead."""
    if pbx.engine.dialect.name != "postgresql":
        return  # SQLite's locks are the operating system's, which took them back
    others = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
    )
    async with asyncio.timeout(60), pbx.engine.connect() as observer:
        while await observer.scalar(others):
            await observer.rollback()


@pytest.mark.backends("rabbitmq")
@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_dies_at_a_step_loses_and_doubles_nothing(
    pbx: Service, rabbitmq: RealBrokerServer, database_url: str, step: str
) -> None:
    exchange, queue = rabbitmq.name("events"), rabbitmq.name("reader")
    broker = make_broker(rabbitmq.url)
    async with rabbitmq.running(broker):
        declared = await broker.declare_queue(RabbitQueue(queue))
        topic = await broker.declare_exchange(events(exchange))
        await declared.bind(topic, "extension.forwarded.*")
    arguments = (step, database_url, rabbitmq.url, exchange, queue)
    await asyncio.to_thread(die, *arguments)
    await locks_are_gone(pbx)

    broker = make_broker(rabbitmq.url)
    reader = Reader(broker, pbx.sessions, events(exchange), queue)
    pbx.time += LEASE
    deliveries = 0 if step not in COMMITTED or step == "acknowledged" else 1
    deliveries += step in REPEATED
    async with rabbitmq.running(broker):
        relay = pbx.relay(publisher(broker), exchange)
        assert await relay.drain() == int(
            step in COMMITTED[: COMMITTED.index("marked")]
        )
        effects = await reader.take(deliveries)
        await pbx.forward("1002")  # what is behind all others
        await relay.drain()
        assert await reader.take(1) == [True]
    ids = {str(one.message_id) for one in await pbx.rows()}
    assert len(ids) == 1 + (step in COMMITTED)
    # Of two deliveries at once, the one with no effect may be the first to say so.
    assert sorted(effects, reverse=True) == expected(step)
    assert await pbx.sums() == (len(ids), len(ids))
    assert await rabbitmq.depth(queue) == 0


def expected(step: str) -> list[bool]:
    """Return which of the deliveries after a crash have an effect."""
    if step not in COMMITTED or step == "acknowledged":
        return []
    if step == "handled":
        return [False]
    return [True, False] if step in REPEATED else [True]


@pytest.mark.backends("memory")
@pytest.mark.parametrize("step", STEPS)
async def test_a_task_that_dies_at_a_step_loses_and_doubles_nothing(
    pbx: Service, broker_server: AnyBroker, step: str
) -> None:
    """The queue of RabbitMQ is a list here: what is not acknowledged stays in it."""
    crasher = Crasher(step)
    broker = make_broker(broker_server.url, middlewares=[crasher.middleware()])
    waiting = collect(
        broker, RabbitQueue("waiting", routing_key="extension.#"), events("events")
    )
    other = make_broker(broker_server.url)
    CrashingReader(other, pbx.sessions, events("delivered"), "reader", crasher=crasher)
    published: list[str] = []

    async def deliver() -> None:
        while not waiting.empty():
            message = waiting.get_nowait()
            published.append(message.message_id)
            copy = again(message, events("delivered"))
            try:
                await publish_confirmed(other, copy)
            except BaseException:
                if step in REDELIVERED:
                    waiting.put_nowait(message)
                raise

    async def live() -> None:
        await crasher.commit_and_relay(pbx, publisher(broker), "events")
        await deliver()

    async with broker_server.running(broker, other), asyncio.timeout(20):
        crasher.task = asyncio.create_task(live())
        with crasher.installed(pbx.engine):
            await asyncio.gather(crasher.task, return_exceptions=True)
        assert crasher.reached == [step]
        crasher.step = "none"
        pbx.time += LEASE
        await pbx.relay(publisher(broker), "events").drain()
        await deliver()
    ids = {str(one.message_id) for one in await pbx.rows()}
    assert len(ids) == (step in COMMITTED)
    assert set(published) == ids
    assert await pbx.sums() == (len(ids), len(ids))
    assert len(published) == len(ids) + (step in (*REPEATED, *REDELIVERED))
