"""Ada's extension is forwarded, and the event waits in the same transaction."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.messaging.events import EventData, EventRegistry
from snippets.messaging.outbox import OutboxBase, OutboxMessage, backlog, enqueue

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Base(DeclarativeBase):
    """The tables of this example."""


class Extension(Base):
    """Where a number forwards its calls to."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    forwards_to: Mapped[str]


class Forwarded(EventData):
    """An extension forwards its calls."""

    number: str
    to: str


async def main() -> None:
    """Commit one change with its event, and roll back another."""
    registry = EventRegistry(now=lambda: NOON, new_id=lambda: UUID(int=1))
    registry.register("extension.forwarded")(Forwarded)
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(OutboxBase.metadata.create_all)
        await connection.execute(
            sa.insert(Extension).values(number="1001", forwards_to="reception")
        )

    async def forward(to: str, *, fail: bool = False) -> None:
        async with session_scope(sessions) as session:
            extension = await session.get_one(Extension, "1001")
            extension.forwards_to = to
            event = registry.new(
                Forwarded(number="1001", to=to), tenant="acme", correlation_id="call-7"
            )
            await enqueue(session, event, key="extension:1001", now=NOON.timestamp)
            if fail:
                raise ConnectionError

    await forward("voicemail")
    try:
        await forward("mobile", fail=True)
    except ConnectionError:
        print("the second change is rolled back")
        # > the second change is rolled back

    async with session_scope(sessions) as session:
        row = await session.scalar(sa.select(OutboxMessage))
        if row is not None:
            print(row.routing_key, row.key, row.correlation_id)
            # > extension.forwarded.acme extension:1001 call-7
        print(await backlog(session, NOON.timestamp() + 90))
        # > Backlog(pending=1, oldest=90.0, parked=0)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
