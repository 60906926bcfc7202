"""With everything failing at once, the sum of effects is the sum of commits."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import sqlalchemy as sa
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitRouter
from sqlalchemy.exc import DBAPIError

from catalogue.plugin import Proof
from snippets.database.async_session import session_scope
from snippets.messaging.dead_letters import (
    RetryPolicy,
    Topology,
    declare_topology,
    set_aside,
)
from snippets.messaging.outbox import Backlog, backlog
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.rabbit_broker import make_broker, publish_confirmed
from tests.support.outbox import (
    Reader,
    Service,
    events,
    publisher,
    service,
)
from tests.support.rabbitmq import (
    AnyBroker,
    PrivateBrokerServer,
    RealBrokerServer,
    collect,
    proxy,
)

CUT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""


@pytest.fixture
async def pbx(database_url: str) -> AsyncIterator[Service]:
    """Both services on an empty database."""
    async with service(database_url) as both:
        yield both


async def test_what_leaves_the_outbox_is_what_a_consumer_can_read(
    pbx: Service, broker_server: AnyBroker
) -> None:
    exchange, queue = events(broker_server.name("events")), broker_server.name("reader")
    broker = make_broker(broker_server.url)
    reader = Reader(broker, pbx.sessions, exchange, queue)
    async with broker_server.running(broker):
        event_id = await pbx.forward()
        assert await pbx.relay(publisher(broker), exchange).drain() == 1
        async with asyncio.timeout(20):
            assert await reader.handled.get() == (str(event_id), True)
    assert await pbx.sums() == (1, 1)


async def test_an_event_that_no_queue_takes_is_parked_and_its_neighbour_arrives(
    pbx: Service, broker_server: AnyBroker
) -> None:
    exchange, queue = events(broker_server.name("events")), broker_server.name("reader")
    broker = make_broker(broker_server.url)
    reader = Reader(broker, pbx.sessions, exchange, queue)
    reader.broker = broker
    async with broker_server.running(broker):
        await pbx.forward("1001")
        await pbx.forward("1002")
        async with session_scope(pbx.sessions) as session:
            lost = sa.text("UPDATE outbox_messages SET routing_key = 'x' WHERE id = 1")
            await session.execute(lost)
        relay = pbx.relay(publisher(broker), exchange, attempts=1)
        assert await relay.drain() == 1
        assert await reader.take(1) == [True]
    row = (await pbx.rows())[0]
    assert (row.error, row.parked_at) == ("UnroutableError", pbx.time)
    async with session_scope(pbx.sessions) as session:
        assert await backlog(session, pbx.time) == Backlog(0, 0.0, 1)


async def test_two_relays_and_three_consumers_have_each_effect_once(
    pbx: Service, broker_server: AnyBroker, proof: Proof
) -> None:
    exchange, queue = events(broker_server.name("events")), broker_server.name("reader")
    memory = not isinstance(broker_server, RealBrokerServer)
    brokers = [make_broker(broker_server.url) for _ in range(2 if memory else 4)]
    readers = [Reader(one, pbx.sessions, exchange, queue) for one in brokers[1:]]
    handled: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    for reader in readers:
        reader.handled = handled
    relays = [pbx.relay(publisher(brokers[0]), exchange, batch=4) for _ in range(2)]
    async with broker_server.running(*brokers):
        for number in range(30):
            await pbx.forward(str(1001 + number % 10), str(number))
        async with asyncio.timeout(30):
            await asyncio.gather(*(relay.drain() for relay in relays))
            await relays[0].drain()
            done = [await handled.get() for _ in range(30)]
    assert len({message_id for message_id, _ in done}) == 30
    assert all(effect for _, effect in done)
    assert await pbx.sums() == (30, 30)


@pytest.mark.backends("rabbitmq")
async def test_a_database_connection_that_is_cut_costs_nothing(
    pbx: Service, rabbitmq: RealBrokerServer
) -> None:
    exchange, queue = events(rabbitmq.name("events")), rabbitmq.name("reader")
    broker = make_broker(rabbitmq.url)
    topology = Topology(queue, RetryPolicy(retry_on=(DBAPIError,), delays=(0.05,) * 3))
    names = ["dead", "replay", *(f"retry.{one}" for one in (1, 2, 3))]
    for suffix in (*names, *(f"attempt.{one}" for one in (2, 3, 4))):
        rabbitmq.name(f"reader.{suffix}")
    router = RabbitRouter(middlewares=[set_aside(broker, topology)])
    reader = Cut(broker, pbx, exchange)
    work = topology.work("extension.forwarded.*")
    router.subscriber(work, exchange)(reader.handle)
    broker.include_router(router)
    await broker.connect()
    await declare_topology(broker, topology)
    relay = pbx.relay(publisher(broker), exchange)
    relay.interval = 0.05
    async with rabbitmq.running(broker), asyncio.timeout(30):
        for number in range(5):
            await pbx.forward(str(1001 + number))
        await cut(pbx)
        running = asyncio.create_task(relay.run())
        for _ in range(5):
            await reader.effects.get()
        await pbx.forward("1009")
        await cut(pbx)
        await reader.effects.get()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert reader.failures > 0
    assert await pbx.sums() == (6, 6)
