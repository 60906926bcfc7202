"""A message has its effect once, however often and to how many it is delivered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import sqlalchemy as sa
from faststream.exceptions import RejectMessage
from faststream.rabbit import RabbitMessage
from sqlalchemy import orm
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from catalogue.plugin import Proof
from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.messaging import inbox_naive
from snippets.messaging.inbox import InboxEntry, once, purge
from snippets.messaging.rabbit_broker import Outgoing, make_broker
from tests.support.counters import count_sql
from tests.support.outbox import (
    NOW,
    REGISTRY,
    Forward,
    Forwarded,
    Reader,
    Service,
    blocked,
    events,
    publish_without_id,
    service,
)
from tests.support.rabbitmq import AnyBroker, RealBrokerServer


@pytest.fixture
async def pbx(database_url: str) -> AsyncIterator[Service]:
    """Both services on an empty database."""
    async with service(database_url) as both:
        yield both


def message(message_id: str | None = "m1") -> RabbitMessage:
    """Return a delivery, of which only the id matters to an inbox."""
    made_up = message_id or "made up"
    raw = SimpleNamespace(message_id=message_id)
    return cast("RabbitMessage", SimpleNamespace(raw_message=raw, message_id=made_up))


async def count(session: AsyncSession) -> None:
    """Have an effect that is seen if it is had twice."""
    values = {"changes": Forward.changes + 1}
    row = Forward.number == "1001"
    await session.execute(sa.update(Forward).where(row).values(values))


async def test_a_message_that_comes_again_has_no_effect(
    pbx: Service, proof: Proof
) -> None:
    with count_sql(pbx.engine) as seen:
        assert await once(message(), pbx.sessions, "directory", count)
    words = [one.split()[0] for one in seen.texts]
    assert (words, seen.commits) == (["INSERT", "UPDATE"], 1)
    proof.cost("message: beyond its effect", inserts=1, selects=0)

    with count_sql(pbx.engine) as seen:
        assert not await once(message(), pbx.sessions, "directory", count)
    words = [one.split()[0] for one in seen.texts]
    assert (words, seen.commits) == (["INSERT"], 0)
    assert (await pbx.sums())[1] == 1
    proof.cost("message that comes again", inserts=1, selects=0)


async def test_two_consumers_have_their_effect_once_each(pbx: Service) -> None:
    for _ in range(2):
        for consumer in ("directory", "billing"):
            await once(message(), pbx.sessions, consumer, count)
    assert ((await pbx.sums())[1], await pbx.entries()) == (2, 2)


async def test_two_messages_have_their_effect_each(pbx: Service) -> None:
    for message_id in ("m1", "m2", "m1"):
        await once(message(message_id), pbx.sessions, "directory", count)
    assert (await pbx.sums())[1] == 2


async def test_an_effect_that_fails_leaves_nothing_and_can_be_tried_again(
    pbx: Service,
) -> None:
    async def fail(session: AsyncSession) -> None:
        await count(session)
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            await once(message(), pbx.sessions, "directory", fail)
        assert ((await pbx.sums())[1], await pbx.entries()) == (0, 0)
    assert await once(message(), pbx.sessions, "directory", count)
    assert (await pbx.sums())[1] == 1


async def test_a_conflict_of_the_effect_itself_is_not_taken_for_a_duplicate(
    pbx: Service,
) -> None:
    async def clash(session: AsyncSession) -> None:
        await session.execute(sa.insert(Forward).values(number="1001"))

    with pytest.raises(IntegrityError):
        await once(message(), pbx.sessions, "directory", clash)
    assert await pbx.entries() == 0


@pytest.mark.parametrize("message_id", [None, "", "m\0"])
async def test_a_message_without_an_id_to_keep_goes_to_the_dead_letters(
    pbx: Service, message_id: str | None
) -> None:
    with count_sql(pbx.engine) as seen, pytest.raises(RejectMessage):
        await once(message(message_id), pbx.sessions, "directory", count)
    assert seen.total == 0


async def test_a_message_that_was_published_without_an_id(
    pbx: Service, broker_server: AnyBroker, proof: Proof
) -> None:
    exchange, queue = events(broker_server.name("events")), broker_server.name("reader")
    broker = make_broker(broker_server.url)
    reader = Reader(broker, pbx.sessions, exchange, queue)
    data = Forwarded(number="1001", target="voicemail")
    event = REGISTRY.new(data, tenant="acme", correlation_id="request-1")
    key, body = event.routing_key, event.encode()
    title = "A message that was published without an id"
    async with broker_server.running(broker):
        if isinstance(broker_server, RealBrokerServer):
            outgoing = Outgoing(body=body, message_id="", routing_key=key)
            async with broker_server.channel() as channel:
                await publish_without_id(channel, exchange.name, outgoing)
            await broker.publish(body, key, exchange, message_id="m1")
            async with asyncio.timeout(20):
                assert await reader.handled.get() == ("m1", True)
            assert await broker_server.depth(queue) == 0
            assert await pbx.entries() == 1
            proof.differs(title, "It has none, and is rejected")
        else:
            await broker.publish(body, key, exchange)
            assert await reader.take(1) == [True]
            proof.differs(title, "The in-memory broker has given it one")


@asynccontextmanager
async def winner(pbx: Service, *, fails: bool) -> AsyncIterator[asyncio.Event]:
    """Handle the message, and hold its transaction until the event is set."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def hold(session: AsyncSession) -> None:
        await count(session)
        begun.set()
        await go.wait()
        if fails:
            raise ConnectionError

    handling = asyncio.create_task(once(message(), pbx.sessions, "directory", hold))
    await begun.wait()
    yield go
    (result,) = await asyncio.gather(handling, return_exceptions=True)
    assert isinstance(result, ConnectionError) if fails else result is True


@pytest.mark.parametrize("fails", [False, True])
async def test_of_two_deliveries_at_once_the_second_waits_for_the_first(
    pbx: Service, proof: Proof, *, fails: bool
) -> None:
    sent = asyncio.Event()

    def inserting(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO inbox"):
            sent.set()

    async with asyncio.timeout(20), winner(pbx, fails=fails) as go:
        engine = pbx.engine.sync_engine
        sa.event.listen(engine, "before_cursor_execute", inserting)
        second = asyncio.create_task(once(message(), pbx.sessions, "directory", count))
        await sent.wait()
        if pbx.engine.dialect.name == "postgresql":
            await blocked(pbx.engine)
        else:
            await locked(pbx)
        assert not second.done()
        go.set()
    assert await second is fails
    assert ((await pbx.sums())[1], await pbx.entries()) == (1, 1)
    if fails:
        return
    title = "A second delivery while the first is being handled"
    if pbx.engine.dialect.name == "postgresql":
        proof.differs(title, "It waits for as long as the first one takes")
    else:
        behaviour = "It waits for five seconds at most, as does any other writer"
        proof.differs(title, behaviour)


async def locked(pbx: Service) -> None:
    """Expect that a delivery which does not wait gets nowhere on SQLite."""
    options = {"connect_args": {"timeout": 0}}
    engine, sessions = create_engine_and_sessions(pbx.engine.url, **options)
    with pytest.raises(OperationalError, match="database is locked"):
        await once(message(), sessions, "directory", count)
    await engine.dispose()


async def test_many_deliveries_at_once_have_one_effect(pbx: Service) -> None:
    deliveries = [once(message(), pbx.sessions, "directory", count) for _ in range(12)]
    assert sum(await asyncio.gather(*deliveries)) == 1
    assert (await pbx.sums())[1] == 1


async def test_entries_are_purged_by_age_and_a_message_older_than_them_has_effect_again(
    pbx: Service, proof: Proof
) -> None:
    for number in range(5):
        one = message(str(number))
        await once(one, pbx.sessions, "directory", count, now=lambda: NOW)
    one = message("new")
    await once(one, pbx.sessions, "directory", count, now=lambda: NOW + 100)
    deleted = []
    with count_sql(pbx.engine) as seen:
        for _ in range(3):
            async with session_scope(pbx.sessions) as session:
                deleted.append(await purge(session, before=NOW + 50, limit=3))
    assert (deleted, seen.total) == ([3, 2, 0], 3)
    proof.cost("purge of a batch", statements=1)
    assert not await once(one, pbx.sessions, "directory", count)
    assert await once(message("0"), pbx.sessions, "directory", count)


@pytest.mark.backends("postgresql")
async def test_the_naive_consumer_has_the_effect_twice_if_two_deliveries_meet(
    pbx: Service, proof: Proof
) -> None:
    both = asyncio.Barrier(2)

    async def meet(session: AsyncSession) -> None:
        await both.wait()
        await count(session)

    async with asyncio.timeout(20):
        results = await asyncio.gather(
            *(
                inbox_naive.once(message(), pbx.sessions, "directory", meet)
                for _ in range(2)
            ),
            return_exceptions=True,
        )
    assert results.count(True) == 1
    assert (await pbx.sums())[1] == 2
    proof.breaks(
        "A message is delivered twice at once",
        "Neither sees the other, and the effect is had twice",
    )


async def test_the_naive_consumer_has_the_effect_twice_if_it_dies_after_it(
    pbx: Service, proof: Proof
) -> None:
    class Crash(BaseException):
        """What no handler catches."""

    def die(session: orm.Session) -> None:
        if any(isinstance(one, InboxEntry) for one in session.new):
            raise Crash

    dying = async_sessionmaker[AsyncSession](**pbx.sessions.kw)
    base = dying.kw["sync_session_class"]
    own = type("Dying", (base,), {})
    sa.event.listen(own, "before_commit", die)
    dying.configure(sync_session_class=own)
    with pytest.raises(Crash):
        await inbox_naive.once(message(), dying, "directory", count)
    assert await inbox_naive.once(message(), pbx.sessions, "directory", count)
    assert (await pbx.sums())[1] == 2
    proof.breaks(
        "The consumer dies after the effect and before its note of it",
        "The message comes again, and so does the effect",
    )
