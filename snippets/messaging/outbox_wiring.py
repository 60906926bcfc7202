"""Wire the outbox into FastAPI: requests enqueue, and a task relays."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import sqlalchemy as sa
from fastapi import Body, FastAPI, Header
from faststream.rabbit import RabbitBroker, RabbitExchange
from pydantic import StringConstraints
from sqlalchemy import orm

from snippets.database.async_session import SessionDep, create_engine_and_sessions
from snippets.messaging.events import EventData, EventRegistry
from snippets.messaging.outbox import enqueue, wake_after_commit
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.rabbit_broker import (
    RECONNECT_SECONDS,
    make_broker,
    publish_confirmed,
)

logger = logging.getLogger(__name__)
Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{3,6}$")]


class Base(orm.DeclarativeBase):
    """The tables of this service, beside the outbox's."""


class Extension(Base):
    """Where a number forwards its calls to."""

    __tablename__ = "extensions"

    number: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    forwards_to: orm.Mapped[str]
    version: orm.Mapped[int]


class Forwarded(EventData):
    """An extension forwards its calls, for the so manieth time."""

    number: str
    to: str
    version: int


# It always writes, so changes of one number wait for each other, also the first two.
FORWARD = """
INSERT INTO extensions (number, forwards_to, version) VALUES (:number, :to, 1)
ON CONFLICT (number) DO UPDATE
SET forwards_to = excluded.forwards_to, version = extensions.version + 1
RETURNING version
"""


async def connect_and_relay(broker: RabbitBroker, relay: OutboxRelay) -> None:
    """Relay from when RabbitMQ is there, for requests do not need it."""
    while not broker.running:
        try:
            await broker.start()
        except (OSError, TimeoutError) as error:
            logger.warning("RabbitMQ is not there: %s", type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)
    await relay.run()


def report(task: asyncio.Task[None]) -> None:
    """Log why nothing is relayed any more, unless the application ends."""
    if not task.cancelled():
        logger.critical("the relay has ended", exc_info=task.exception())


def create_app(database_url: str, rabbitmq_url: str, topic: RabbitExchange) -> FastAPI:
    """Return an application whose changes are published to this exchange."""
    registry = EventRegistry()
    registry.register("extension.forwarded")(Forwarded)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine, sessions = create_engine_and_sessions(database_url)
        broker = make_broker(rabbitmq_url)
        publish = partial(publish_confirmed, broker)
        relay = OutboxRelay(sessions=sessions, publish=publish, exchange=topic)
        wake_after_commit(sessions, relay.wake)
        app.state.sessions = sessions
        relaying = asyncio.create_task(connect_and_relay(broker, relay))
        relaying.add_done_callback(report)
        try:
            yield
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
            await broker.stop()
            await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.put("/extensions/{number}", status_code=204)
    async def forward(
        number: Number,
        to: Annotated[Number, Body(embed=True)],
        session: SessionDep,
        x_correlation_id: Annotated[str, Header(pattern=r"^[!-~]{1,128}$")],
    ) -> None:
        values = {"number": number, "to": to}
        version = await session.scalar(sa.text(FORWARD), values)
        data = Forwarded(number=number, to=to, version=version)
        event = registry.new(data, tenant="acme", correlation_id=x_correlation_id)
        await enqueue(session, event, key=f"extension:{number}")
        logger.info("forwarded %s because of %r", number, x_correlation_id)

    return app
