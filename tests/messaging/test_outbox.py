"""An event is in the outbox exactly if what it tells was committed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import sqlalchemy as sa
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue
from pydantic import BaseModel, field_serializer

from catalogue.plugin import Proof
from snippets.database.async_session import session_scope
from snippets.messaging import outbox_naive
from snippets.messaging.events import DomainEvent, EventData, EventRegistry
from snippets.messaging.outbox import (
    Backlog,
    backlog,
    enqueue,
    purge,
    replay,
    wake_after_commit,
)
from snippets.messaging.rabbit_broker import (
    Outgoing,
    UnconfirmedError,
    UnroutableError,
    make_broker,
)
from tests.support.counters import count_messages, count_sql
from tests.support.outbox import (
    NOW,
    REGISTRY,
    Extension,
    Forwarded,
    Recorder,
    Service,
    events,
    forward,
    publisher,
    service,
)
from tests.support.rabbitmq import AnyBroker, RealBrokerServer, collect, proxy


@pytest.fixture
async def pbx(database_url: str) -> AsyncIterator[Service]:
    """Both services on an empty database."""
    async with service(database_url) as both:
        yield both


class FullError(Exception):
    """What a request may fail with after it has enqueued."""


async def fail_after_enqueueing(pbx: Service) -> None:
    """Roll back a change with its event."""
    async with session_scope(pbx.sessions) as session:
        await forward(session)
        await session.flush()
        raise FullError


async def enqueue_alone(
    pbx: Service,
    event: DomainEvent[Any],
    headers: Mapping[str, str] | None = None,
    key: str | None = None,
) -> None:
    """Enqueue in a transaction that changes something else."""
    async with session_scope(pbx.sessions) as session:
        await forward(session)
        await enqueue(session, event, key=key, headers=headers)


async def test_an_event_is_there_if_its_change_was_committed(
    pbx: Service, proof: Proof
) -> None:
    with count_sql(pbx.engine) as seen, count_messages() as published:
        event_id = await pbx.forward()
    words = [one.split()[0] for one in seen.texts]
    assert (words, seen.commits, published.total) == (["UPDATE", "INSERT"], 1, 0)
    (row,) = await pbx.rows()
    assert row.message_id == event_id
    proof.cost("change with its event: beyond the change", inserts=1, messages=0)


async def test_the_events_of_one_transaction_are_one_insert(
    pbx: Service, proof: Proof
) -> None:
    with count_sql(pbx.engine) as seen:
        async with session_scope(pbx.sessions) as session:
            extension = await session.get_one(Extension, "1001")
            extension.target = "voicemail"
            for number in range(20):
                data = Forwarded(number="1001", target=str(number))
                event = REGISTRY.new(data, tenant="acme", correlation_id="request-1")
                await enqueue(session, event, key="extension:1001")
    inserts = [one for one in seen.texts if one.startswith("INSERT")]
    assert (len(inserts), seen.total) == (1, 3)
    assert [REGISTRY.decode(one.body).data.target for one in await pbx.rows()] == [
        str(number) for number in range(20)
    ]
    proof.cost("20 events of one transaction", inserts=1, messages=0)


async def test_an_event_of_a_change_that_is_rolled_back_is_not_there(
    pbx: Service,
) -> None:
    with pytest.raises(FullError):
        await fail_after_enqueueing(pbx)
    async with session_scope(pbx.sessions) as session:
        async with session.begin_nested() as savepoint:
            await forward(session, "1002")
            await session.flush()
            await savepoint.rollback()
        kept = await forward(session, "1003")
    assert [one.message_id for one in await pbx.rows()] == [kept]
    assert (await pbx.sums())[0] == 1


async def test_what_the_session_holds_is_written_before_the_event_gets_its_id(
    pbx: Service,
) -> None:
    with count_sql(pbx.engine) as seen:
        async with session_scope(pbx.sessions) as session:
            extension = await session.get_one(Extension, "1001")
            extension.target = "voicemail"
            data = Forwarded(number="1001", target="voicemail")
            event = REGISTRY.new(data, tenant="acme", correlation_id="request-1")
            await enqueue(session, event, key="extension:1001")
    words = [one.split()[0] for one in seen.texts]
    assert words == ["SELECT", "UPDATE", "INSERT"]


@pytest.mark.backends("postgresql")
async def test_the_ids_of_a_key_are_in_the_order_of_its_commits(pbx: Service) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()

    async def change(target: str) -> None:
        async with session_scope(pbx.sessions) as session:
            extension = await session.get_one(Extension, "1001")
            extension.target = target
            data = Forwarded(number="1001", target=target)
            event = REGISTRY.new(data, tenant="acme", correlation_id="request-1")
            await begun.put(target)
            await enqueue(session, event, key="extension:1001")
            order.append(target)

    order: list[str] = []
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(change(str(number)))
    assert begun.qsize() == len(order) == 8
    found = [REGISTRY.decode(one.body).data.target for one in await pbx.rows()]
    assert found == order


async def test_a_row_says_what_its_event_says(pbx: Service) -> None:
    data = Forwarded(number="1001", target="voicemail")
    event = REGISTRY.new(data, tenant="acme", correlation_id="c" * 128)
    async with session_scope(pbx.sessions) as session:
        headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71-01"}
        await enqueue(session, event, key="k", headers=headers, now=lambda: NOW)
    (row,) = await pbx.rows()
    assert (row.message_id, row.type, row.routing_key, row.correlation_id) == (
        event.event_id,
        "extension.forwarded",
        "extension.forwarded.acme",
        "c" * 128,
    )
    assert row.headers == {**headers, "tenant": "acme"}
    assert REGISTRY.decode(row.body) == event
    assert (row.created_at, row.attempts, row.published_at) == (NOW, 0, None)


class Unwritable(BaseModel):
    """What no JSON can be made of."""

    model_config = {"frozen": True}

    @field_serializer("*")
    def fail(self, _: object) -> str:
        """Fail."""
        raise FullError

    value: int = 1


class Odd(EventData):
    """An event with such a thing in it."""

    unwritable: Unwritable


@pytest.mark.parametrize(
    "headers", [{"attempt": 1}, {1: "attempt"}, {"key": b"\x00"}, {"key": None}]
)
async def test_headers_that_no_relay_could_send_are_refused(
    pbx: Service, headers: dict[Any, Any]
) -> None:
    data = Forwarded(number="1001", target="voicemail")
    event = REGISTRY.new(data, tenant="acme", correlation_id="request-1")
    with pytest.raises(TypeError, match="expected str instance"):
        await enqueue_alone(pbx, event, cast("Mapping[str, str]", headers))
    assert await pbx.rows() == []


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        ("k" * 129, {}),
        ("\U0001f600" * 33, {}),
        ("a\0", {}),
        ("\ud800", {}),
        (None, {"h" * 129: "v"}),
        (None, {"\ud800": "v"}),
        (None, {"h": "\ud800"}),
        (None, {"h": "a\0"}),
        (None, {"h": "v" * 16_384}),
        (None, {str(number): "v" * 100 for number in range(200)}),
    ],
)
async def test_text_that_would_take_other_messages_with_it_is_refused(
    pbx: Service, key: str | None, headers: dict[str, str]
) -> None:
    data = Forwarded(number="1001", target="voicemail")
    event = REGISTRY.new(data, tenant="acme", correlation_id="request-1")
    with pytest.raises(ValueError, match=r"too long, or have a NUL|surrogates"):
        await enqueue_alone(pbx, event, headers, key)
    assert await pbx.rows() == []
    assert (await pbx.sums())[0] == 0


async def test_text_of_the_greatest_length_reaches_its_reader(
    pbx: Service, broker_server: AnyBroker
) -> None:
    exchange, queue = events(broker_server.name("events")), broker_server.name("reader")
    broker = make_broker(broker_server.url)
    got = collect(broker, RabbitQueue(queue, routing_key="#"), exchange)
    data = Forwarded(number="1001", target="voicemail")
    event = REGISTRY.new(data, tenant="a" * 128, correlation_id="~" * 128)
    headers = {"h" * 128: "v" * (16_384 - 3 * 128 - len("tenant"))}
    async with broker_server.running(broker), asyncio.timeout(20):
        async with session_scope(pbx.sessions) as session:
            await enqueue(session, event, key="\u00e4" * 64, headers=headers)
        assert await pbx.relay(publisher(broker), exchange).drain() == 1
        arrived = await got.get()
    assert arrived.headers == {**headers, "tenant": "a" * 128}
    assert arrived.correlation_id == "~" * 128


async def test_an_event_that_cannot_be_serialised_fails_its_own_transaction(
    pbx: Service,
) -> None:
    registry = EventRegistry()
    registry.register("extension.odd")(Odd)
    event = registry.new(
        Odd(unwritable=Unwritable()), tenant="acme", correlation_id="request-1"
    )
    with pytest.raises(Exception, match="FullError"):
        await enqueue_alone(pbx, event)
    assert await pbx.rows() == []
    assert (await pbx.sums())[0] == 0


async def test_a_commit_of_an_event_wakes_and_nothing_else_does(pbx: Service) -> None:
    woken: list[int] = []
    wake_after_commit(pbx.sessions, lambda: woken.append(1))
    async with session_scope(pbx.sessions) as session:
        await session.get_one(Extension, "1001")
    with pytest.raises(FullError):
        await fail_after_enqueueing(pbx)
    assert woken == []
    async with session_scope(pbx.sessions) as session:
        await forward(session)
        await session.flush()
        assert woken == []
    assert woken == [1]


async def test_metrics_tell_how_many_wait_how_long_and_how_many_are_parked(
    pbx: Service, proof: Proof
) -> None:
    async with session_scope(pbx.sessions) as session:
        assert await backlog(session, NOW) == Backlog(0, 0.0, 0)
    for number in ("1001", "1002", "1003", "1004"):
        await pbx.forward(number, tenant="bad" if number == "1001" else "acme")
        pbx.time += 10
    failing = Recorder(lambda one: UnroutableError() if "bad" in str(one) else None)
    await pbx.relay(failing, attempts=1, batch=2).relay_batch()
    with count_sql(pbx.engine) as seen:
        async with session_scope(pbx.sessions) as session:
            found = await backlog(session, pbx.time)
    assert found == Backlog(pending=2, oldest=20.0, parked=1)
    assert seen.total == 1
    proof.cost("metrics", statements=1)


async def test_a_parked_event_is_replayed_with_all_its_attempts(pbx: Service) -> None:
    ids = [await pbx.forward(number) for number in ("1001", "1002")]
    broken = Recorder(lambda _: UnroutableError())
    await pbx.relay(broken, attempts=1).relay_batch()
    pbx.time += 1000
    mended = Recorder()
    assert await pbx.relay(mended).drain() == 0
    async with session_scope(pbx.sessions) as session:
        assert await replay(session, ids[1]) == 1
        assert await replay(session, ids[1]) == 0  # it is parked no more
    row = (await pbx.rows())[1]
    assert (row.attempts, row.parked_at, row.error) == (0, None, "UnroutableError")
    assert await pbx.relay(mended).drain() == 1
    assert [one.message_id for one in mended.sent] == [str(ids[1])]
    async with session_scope(pbx.sessions) as session:
        assert await replay(session, ids[1]) == 0  # it is published


async def test_what_was_published_is_purged_by_age_and_in_batches(
    pbx: Service, proof: Proof
) -> None:
    for _ in range(5):
        await pbx.forward()
    recorder = Recorder()
    await pbx.relay(recorder).drain()
    pbx.time += 100
    for _ in range(2):
        await pbx.forward()
    await pbx.relay(recorder, batch=1).relay_batch()
    deleted = []
    with count_sql(pbx.engine) as seen:
        for _ in range(3):
            async with session_scope(pbx.sessions) as session:
                deleted.append(await purge(session, before=NOW + 50, limit=3))
    assert deleted == [3, 2, 0]
    assert seen.total == 3
    kept = [(one.published_at is None) for one in await pbx.rows()]
    assert kept == [False, True]
    proof.cost("purge of a batch", statements=1)


def outgoing(exchange: RabbitExchange) -> Outgoing:
    """Return the message of an event, made by hand."""
    data = Forwarded(number="1001", target="voicemail")
    event = REGISTRY.new(data, tenant="acme", correlation_id="request-1")
    return Outgoing(
        body=event.encode(),
        message_id=str(event.event_id),
        routing_key=event.routing_key,
        exchange=exchange,
    )


@asynccontextmanager
async def broker_away(server: AnyBroker) -> AsyncIterator[RabbitBroker]:
    """Yield a broker that was there and is not any more."""
    if isinstance(server, RealBrokerServer):
        async with proxy(server) as (between, url):
            broker = make_broker(url)
            async with server.running(broker):
                await between.cut()
                yield broker
                await between.open()
    else:
        broker = make_broker(server.url)
        async with server.running(broker):
            pass
        yield broker


async def test_the_naive_event_is_lost_when_the_broker_does_not_take_it(
    pbx: Service, broker_server: AnyBroker, proof: Proof
) -> None:
    message = outgoing(events(broker_server.name("e")))
    async with broker_away(broker_server) as broker, pbx.sessions() as session:
        row = sa.update(Extension).where(Extension.number == "1001")
        await session.execute(row.values(changes=1))
        with pytest.raises(UnconfirmedError):
            await outbox_naive.commit_then_publish(session, broker, message)
    assert await pbx.sums() == (1, 0)
    assert await pbx.rows() == []
    proof.breaks(
        "The change is committed, and the broker is away when the event is published",
        "The change is there, and nobody will ever be told",
    )


async def test_the_naive_event_tells_of_a_change_that_never_was(
    pbx: Service, broker_server: AnyBroker, proof: Proof
) -> None:
    broker, exchange = make_broker(broker_server.url), events(broker_server.name("e"))
    queue = RabbitQueue(broker_server.name("q"), routing_key="extension.forwarded.*")
    got = collect(broker, queue, exchange)
    message = outgoing(exchange)

    def refuse(_: object) -> None:
        raise FullError

    async with broker_server.running(broker), asyncio.timeout(20):
        async with pbx.sessions() as session:
            sa.event.listen(session.sync_session, "before_commit", refuse)
            row = sa.update(Extension).where(Extension.number == "1001")
            await session.execute(row.values(changes=1))
            with pytest.raises(FullError):
                await outbox_naive.publish_then_commit(session, broker, message)
        told = REGISTRY.decode((await got.get()).body)
    assert told.data.target == "voicemail"
    assert await pbx.sums() == (0, 0)
    proof.breaks(
        "The event is published, and the commit fails",
        "Everybody is told of what never happened",
    )
