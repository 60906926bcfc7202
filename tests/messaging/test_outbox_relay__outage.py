"""With everything failing at once, the sum of effects is the sum of commits."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from random import uniform

import pytest
import sqlalchemy as sa
from faststream.rabbit import RabbitMessage, RabbitRouter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.messaging.dead_letters import (
    RetryPolicy,
    Topology,
    declare_topology,
    set_aside,
)
from snippets.messaging.inbox import once
from snippets.messaging.outbox import Backlog, OutboxMessage, backlog
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.rabbit_broker import (
    Outgoing,
    make_broker,
    publish_confirmed,
)
from tests.support.outbox import (
    LEASE,
    Reader,
    Service,
    events,
    publisher,
    reading,
    service,
)
from tests.support.rabbitmq import (
    AnyBroker,
    PrivateBrokerServer,
    RealBrokerServer,
)

CUT_OFF = "SELECT pg_terminate_backend(pg_backend_pid())"
CUT_OTHERS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
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
    pbx: Service, broker_server: AnyBroker
) -> None:
    exchange, queue = events(broker_server.name("events")), broker_server.name("reader")
    memory = not isinstance(broker_server, RealBrokerServer)
    brokers = [make_broker(broker_server.url) for _ in range(2 if memory else 4)]
    readers = [Reader(one, pbx.sessions, exchange, queue) for one in brokers[1:]]
    handled: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    for reader in readers:
        reader.handled = handled
    relays = list[OutboxRelay](
        pbx.relay(publisher(brokers[0]), exchange, batch=4) for _ in range(2)
    )
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
async def test_an_event_that_costs_the_connection_parks_none_of_its_neighbours(
    pbx: Service, rabbitmq: RealBrokerServer
) -> None:
    """Nothing that `enqueue` takes does; this one was written behind its back."""
    exchange, queue = events(rabbitmq.name("events")), rabbitmq.name("reader")
    broker = make_broker(rabbitmq.url)
    reader = Reader(broker, pbx.sessions, exchange, queue)
    back: asyncio.Queue[None] = asyncio.Queue()
    for number in range(6):
        await pbx.forward(str(1001 + number))
    async with session_scope(pbx.sessions) as session:
        row = await session.get_one(OutboxMessage, 3)
        row.headers = {"h": "v" * 200_000}  # more than a frame holds
    async with rabbitmq.running(broker), asyncio.timeout(60):
        connection = await broker.connect()
        connection.reconnect_callbacks.add(lambda *_: back.put_nowait(None))
        relay = pbx.relay(publisher(broker), exchange, attempts=4, uniform=uniform)
        while waiting := [
            one.due_at
            for one in await pbx.rows()
            if one.published_at is None and one.parked_at is None
        ]:
            pbx.time = max(pbx.time, min(waiting))
            before = (await pbx.rows())[2].attempts
            await relay.relay_batch()
            if (await pbx.rows())[2].attempts > before:
                await back.get()
        effects: list[bool] = []
        while effects.count(True) < 5:  # some come twice, for a connection was lost
            effects += await reader.take(1)
    assert [one.id for one in await pbx.rows() if one.parked_at is not None] == [3]


@pytest.mark.backends("rabbitmq")
async def test_a_database_connection_that_is_cut_costs_nothing(
    pbx: Service, rabbitmq: RealBrokerServer, engine: AsyncEngine, database_url: str
) -> None:
    exchange, queue = events(rabbitmq.name("events")), rabbitmq.name("reader")
    broker = make_broker(rabbitmq.url)
    topology = Topology(queue, RetryPolicy(retry_on=(DBAPIError,), delays=(0.05,) * 3))
    for suffix in ("dead", "replay", *(f"retry.{one}" for one in (1, 2, 3))):
        rabbitmq.name(f"reader.{suffix}")
    for attempt in (2, 3, 4):
        rabbitmq.name(f"reader.attempt.{attempt}")
    router = RabbitRouter(middlewares=[set_aside(broker, topology)])
    handled: asyncio.Queue[bool] = asyncio.Queue()
    attempts: list[str] = []

    @router.subscriber(topology.work("extension.forwarded.*"), exchange)
    async def handle(message: RabbitMessage) -> None:
        effect = reading(message.body)
        attempts.append(message.message_id)

        async def cut_and_effect(session: AsyncSession) -> None:
            await effect(session)
            if attempts.count(message.message_id) == 1:
                await session.execute(sa.text(CUT_OFF))

        handled.put_nowait(await once(message, pbx.sessions, "reader", cut_and_effect))

    broker.include_router(router)
    publish = publisher(broker)

    async def publish_and_cut(message: Outgoing) -> None:
        await publish(message)
        relaying.time += LEASE  # so that the claim can be taken over
        async with engine.connect() as connection:
            await connection.execute(sa.text(CUT_OTHERS))

    relaying = Service(*create_engine_and_sessions(database_url))
    event_id = await pbx.forward()
    await broker.connect()
    await declare_topology(broker, topology)
    async with rabbitmq.running(broker), asyncio.timeout(30):
        with pytest.raises(DBAPIError):
            await relaying.relay(publish_and_cut, exchange).relay_batch()
        await pbx.engine.dispose()  # which drops the idle connections that were cut
        assert (await pbx.rows())[0].published_at is None
        assert await relaying.relay(publish, exchange).relay_batch() == 1
        assert sorted([await handled.get() for _ in range(2)]) == [False, True]
    await relaying.engine.dispose()
    assert attempts.count(str(event_id)) >= 3
    assert await pbx.sums() == (1, 1)


@pytest.mark.backends("rabbitmq")
async def test_what_was_committed_while_the_broker_was_down_arrives_afterwards(
    pbx: Service, private_rabbitmq: PrivateBrokerServer, broker_backend: str
) -> None:
    assert broker_backend == "rabbitmq"
    exchange = events(private_rabbitmq.name("events"))
    queue = private_rabbitmq.name("reader")
    broker = make_broker(private_rabbitmq.url)
    reader = Reader(broker, pbx.sessions, exchange, queue)
    back = asyncio.Event()
    async with private_rabbitmq.running(broker):
        connection = await broker.connect()
        connection.reconnect_callbacks.add(lambda *_: back.set())
        relay = pbx.relay(publisher(broker), exchange)
        await pbx.forward("1001")
        await relay.drain()
        assert await reader.take(1) == [True]
        await asyncio.to_thread(private_rabbitmq.kill)
        for number in ("1001", "1002", "1001"):
            await pbx.forward(number)
        relay.publish = partial(publish_confirmed, broker, within=0.5)
        assert await relay.drain() == 0
        relay.publish = publisher(broker)
        assert [one.error for one in await pbx.rows()][1:3] == ["UnconfirmedError"] * 2
        await asyncio.to_thread(private_rabbitmq.start)
        pbx.time += 1
        async with asyncio.timeout(60):
            await back.wait()
            drained = 0
            while drained < 3:  # it may not take everything at once
                drained += await relay.drain()
                pbx.time += 1
        effects: list[bool] = []
        while effects.count(True) < 3:  # the first one's acknowledgement may be lost
            effects += await reader.take(1)
    assert await pbx.sums() == (4, 4)
