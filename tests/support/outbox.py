"""A service whose extensions forward calls, and one that reads of it by events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn, cast
from uuid import UUID

import aiormq
import sqlalchemy as sa
from aio_pika.abc import AbstractChannel
from faststream.rabbit import (
    ExchangeType,
    RabbitBroker,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.messaging.events import EventData, EventRegistry
from snippets.messaging.inbox import InboxBase, InboxEntry, once
from snippets.messaging.outbox import OutboxBase, OutboxMessage, Sessions, enqueue
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.rabbit_broker import Outgoing, publish_confirmed

NOW = 1_000_000.0
LEASE = 60.0


class Base(DeclarativeBase):
    """The tables of these tests."""


class Extension(Base):
    """A number, and where it forwards its calls to."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(default="")
    changes: Mapped[int] = mapped_column(default=0)


class Forward(Base):
    """What the reading service knows of a number."""

    __tablename__ = "forwards"

    number: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(default="")
    changes: Mapped[int] = mapped_column(default=0)


class Forwarded(EventData):
    """An extension forwards its calls."""

    number: str
    target: str


REGISTRY = EventRegistry()
REGISTRY.register("extension.forwarded")(Forwarded)


async def forward(
    session: AsyncSession,
    number: str = "1001",
    target: str = "voicemail",
    *,
    tenant: str = "acme",
    now: float = NOW,
) -> UUID:
    """Change an extension, and enqueue that it was."""
    values = {"target": target, "changes": Extension.changes + 1}
    row = Extension.number == number
    await session.execute(sa.update(Extension).where(row).values(values))
    data = Forwarded(number=number, target=target)
    event = REGISTRY.new(data, tenant=tenant, correlation_id="request-1")
    await enqueue(session, event, key=f"extension:{number}", now=lambda: now)
    return event.event_id


def reading(body: bytes) -> Callable[[AsyncSession], Awaitable[None]]:
    """Return the effect of an event on the reading service."""
    data: Forwarded = REGISTRY.decode(body).data

    async def effect(session: AsyncSession) -> None:
        values = {"target": data.target, "changes": Forward.changes + 1}
        row = Forward.number == data.number
        await session.execute(sa.update(Forward).where(row).values(values))

    return effect


def target_of(message: Outgoing) -> str:
    """Return where an event says that calls go."""
    data: Forwarded = REGISTRY.decode(message.body).data
    return data.target


@dataclass
class Recorder:
    """Stands in for a broker: keeps what is published, and fails as it is told."""

    fail: Callable[[Outgoing], Exception | None] = lambda _: None
    during: Callable[[Outgoing], Awaitable[object]] | None = None
    sent: list[Outgoing] = field(default_factory=list)

    async def __call__(self, message: Outgoing) -> None:
        """Publish."""
        if self.during is not None:
            await self.during(message)
        if (error := self.fail(message)) is not None:
            raise error
        self.sent.append(message)

    @property
    def targets(self) -> list[str]:
        """Where the events said that calls go, in the order they were sent in."""
        return [target_of(one) for one in self.sent]


def again(message: RabbitMessage, exchange: RabbitExchange) -> Outgoing:
    """Return a message as it may be delivered once more."""
    return Outgoing(
        body=message.body,
        message_id=message.message_id,
        routing_key="extension.forwarded.acme",
        exchange=exchange,
        correlation_id=message.correlation_id,
    )


def kill(task: asyncio.Task[int], relay: OutboxRelay) -> None:
    """Have a relay die as its process would: it marks nothing any more."""

    def die() -> NoReturn:
        raise SystemError

    relay.sessions = cast("Sessions", die)
    task.cancel()


@dataclass
class Service:
    """A database of both services, and the clock of all their processes."""

    engine: AsyncEngine
    sessions: Sessions
    time: float = NOW

    def relay(
        self,
        publish: Callable[[Outgoing], Awaitable[object]],
        exchange: RabbitExchange | str = "events",
        *,
        batch: int = 100,
        attempts: int = 20,
        uniform: Callable[[float, float], float] = lambda _, high: high,
    ) -> OutboxRelay:
        """Return one more relay."""
        return OutboxRelay(
            sessions=self.sessions,
            publish=publish,
            exchange=exchange,
            batch=batch,
            attempts=attempts,
            lease=LEASE,
            interval=3600,
            now=lambda: self.time,
            uniform=uniform,
        )

    async def forward(
        self, number: str = "1001", target: str = "voicemail", tenant: str = "acme"
    ) -> UUID:
        """Change an extension in a transaction of its own."""
        async with session_scope(self.sessions) as session:
            return await forward(session, number, target, tenant=tenant, now=self.time)

    async def rows(self) -> Sequence[OutboxMessage]:
        """Return the outbox."""
        async with session_scope(self.sessions) as session:
            query = sa.select(OutboxMessage).order_by(OutboxMessage.id)
            return (await session.scalars(query)).all()

    async def sums(self) -> tuple[int, int]:
        """Return how many changes were committed, and how many have had an effect."""
        async with session_scope(self.sessions) as session:
            commits = await session.scalar(sa.select(sa.func.sum(Extension.changes)))
            effects = await session.scalar(sa.select(sa.func.sum(Forward.changes)))
            return commits or 0, effects or 0

    async def entries(self) -> int:
        """Return how many messages the inbox remembers."""
        async with session_scope(self.sessions) as session:
            query = sa.select(sa.func.count()).select_from(InboxEntry)
            return await session.scalar(query) or 0


@asynccontextmanager
async def service(url: str, numbers: int = 10) -> AsyncIterator[Service]:
    """Yield both services with their tables, and extensions from 1001."""
    engine, sessions = create_engine_and_sessions(url)
    async with engine.begin() as connection:
        for base in (Base, OutboxBase, InboxBase):
            await connection.run_sync(base.metadata.create_all)
        rows = [{"number": str(1001 + one)} for one in range(numbers)]
        await connection.execute(sa.insert(Extension), rows)
        await connection.execute(sa.insert(Forward), rows)
    try:
        yield Service(engine, sessions)
    finally:
        await engine.dispose()


@dataclass
class Reader:
    """Consumers of the reading service on one broker, and what they did."""

    broker: RabbitBroker
    sessions: Sessions
    exchange: RabbitExchange
    queue: str
    consumer: str = "directory"
    handled: asyncio.Queue[tuple[str, bool]] = field(default_factory=asyncio.Queue)
    """The id of each delivery, and whether it had an effect."""

    def __post_init__(self) -> None:
        """Subscribe."""
        queue = RabbitQueue(self.queue, routing_key="extension.forwarded.*")
        self.broker.subscriber(queue, self.exchange)(self.handle)

    async def handle(self, message: RabbitMessage) -> None:
        """Handle one delivery."""
        effect = reading(message.body)
        done = await once(message, self.sessions, self.consumer, effect)
        await self.handled.put((message.raw_message.message_id or "", done))

    async def take(self, number: int) -> list[bool]:
        """Wait for so many deliveries; return whether each had an effect."""
        async with asyncio.timeout(30):
            return [(await self.handled.get())[1] for _ in range(number)]


class NoID(aiormq.spec.Basic.Properties):
    """Properties to which the client adds no id, as it does to all others."""

    @property
    def message_id(self) -> None:
        """Be without."""

    @message_id.setter
    def message_id(self, _: object) -> None:
        """Stay without."""


async def publish_without_id(
    channel: AbstractChannel, exchange: str, message: Outgoing
) -> None:
    """Publish as a client would that knows of no ids."""
    underlay = await channel.get_underlay_channel()
    properties = NoID(content_type=message.content_type, delivery_mode=2)
    await underlay.basic_publish(
        message.body,
        exchange=exchange,
        routing_key=message.routing_key,
        properties=properties,
    )


def events(name: str) -> RabbitExchange:
    """Return the exchange that events are published to."""
    return RabbitExchange(name, type=ExchangeType.TOPIC)


def publisher(broker: RabbitBroker) -> Callable[[Outgoing], Awaitable[None]]:
    """Return what a relay publishes with."""
    return partial(publish_confirmed, broker)


async def blocked(engine: AsyncEngine) -> None:
    """Wait until a session waits for another one; PostgreSQL tells nobody."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    own = " AND datname = current_database()"
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        found = False
        while not found:
            found = bool(await connection.scalar(sa.text(waits + own)))
