"""Three events are relayed: one key waits for its head, and another does not."""

import asyncio
import logging
from itertools import count
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.messaging.events import EventData, EventRegistry
from snippets.messaging.outbox import OutboxBase, enqueue
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.rabbit_broker import Outgoing, UnconfirmedError


class Forwarded(EventData):
    """An extension forwards its calls."""

    number: str
    to: str


class Broker:
    """Takes what it is given, once it is there."""

    there = True

    async def publish(self, message: Outgoing) -> None:
        """Print the end of the event."""
        if b"1001" in message.body and not self.there:
            raise UnconfirmedError
        print(message.message_id[-1], message.body.decode().partition('"data":')[2])
        # > 3 {"number":"1002","to":"reception"}}
        # > 1 {"number":"1001","to":"mobile"}}
        # > 2 {"number":"1001","to":"voicemail"}}


async def main() -> None:
    """Relay while one message fails, and again a second later."""
    ids = count(1)
    registry = EventRegistry(new_id=lambda: UUID(int=next(ids)))
    registry.register("extension.forwarded")(Forwarded)
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(OutboxBase.metadata.create_all)

    async def forward(session: AsyncSession, number: str, to: str) -> None:
        data = Forwarded(number=number, to=to)
        event = registry.new(data, tenant="acme", correlation_id="call-7")
        await enqueue(session, event, key=f"extension:{number}")

    async with session_scope(sessions) as session:
        await forward(session, "1001", "mobile")
        await forward(session, "1001", "voicemail")
        await forward(session, "1002", "reception")

    broker, time = Broker(), 0.0
    relay = OutboxRelay(
        sessions=sessions,
        publish=broker.publish,
        exchange="events",
        now=lambda: time,
    )
    broker.there = False
    logging.getLogger("snippets.messaging.outbox_relay").setLevel(logging.ERROR)
    print(await relay.drain())
    # > 1
    broker.there = True
    print(await relay.drain())
    # > 0
    time += 1
    print(await relay.drain())
    # > 2
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
