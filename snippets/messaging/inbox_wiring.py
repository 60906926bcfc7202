"""Wire the inbox into a consumer: a read model that takes each event in once."""

import logging

from faststream import rabbit
from prometheus_client import Counter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.messaging import dead_letters as dead
from snippets.messaging.events import EventData, EventRegistry
from snippets.messaging.inbox import once
from snippets.messaging.rabbit_broker import make_broker

logger = logging.getLogger(__name__)


class Base(DeclarativeBase):
    """The read model's tables, beside the inbox's."""


class Directory(Base):
    """Where a number rings, as of which version, and how many changes were seen."""

    __tablename__ = "directory"

    number: Mapped[str] = mapped_column(primary_key=True)
    rings_at: Mapped[str]
    version: Mapped[int]
    changes: Mapped[int]


class Forwarded(EventData):
    """An extension forwards its calls, as far as this service cares."""

    number: str
    to: str
    version: int


async def start_consumer(
    url: str,
    sessions: async_sessionmaker[AsyncSession],
    topic: str,
    name: str,
    duplicates: Counter,
) -> rabbit.RabbitBroker:
    """Declare the queues of a consumer and start it; `stop` it when it is to end."""
    registry = EventRegistry()
    registry.register("extension.forwarded")(Forwarded)
    policy = dead.RetryPolicy(retry_on=(DBAPIError, OSError))
    # One at a time, so that few come before what they follow.
    broker, topology = make_broker(url, prefetch=1), dead.Topology(name, policy)
    router = rabbit.RabbitRouter(middlewares=[dead.set_aside(broker, topology)])
    exchange = rabbit.RabbitExchange(topic, type=rabbit.ExchangeType.TOPIC)

    @router.subscriber(topology.work("extension.forwarded.*"), exchange)
    async def take_in(message: rabbit.RabbitMessage) -> None:
        event = registry.decode(message.body)

        async def update(session: AsyncSession) -> None:
            new = event.data
            entry = await session.get(Directory, new.number, with_for_update=True)
            if entry is None:
                entry = Directory(number=new.number, version=0, changes=0)
                session.add(entry)
            entry.changes += 1
            if new.version > entry.version:  # a retry may come after a newer one
                entry.rings_at, entry.version = new.to, new.version

        done = await once(message, sessions, name, update)
        duplicates.inc(not done)
        state = "taken in" if done else "known"
        about = event.event_type, event.event_id, event.correlation_id, state
        logger.info("%s %s of %r: %s", *about)

    broker.include_router(router)
    try:
        await broker.connect()
        await dead.declare_topology(broker, topology)
        await broker.start()
    except BaseException:
        await broker.stop()
        raise
    return broker
