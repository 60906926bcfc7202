"""A call is billed once, although RabbitMQ delivers it twice."""

import asyncio
from typing import Annotated

import sqlalchemy as sa
from faststream.rabbit import RabbitBroker, RabbitMessage, TestRabbitBroker
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.messaging.inbox import InboxBase, once


class Base(DeclarativeBase):
    """The tables of this example."""


class Account(Base):
    """What a tenant has spoken."""

    __tablename__ = "accounts"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    seconds: Mapped[int]


class Call(BaseModel):
    """A call that has ended."""

    seconds: Annotated[int, Field(ge=0)]


async def main() -> None:
    """Deliver a message twice, and another one once."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(InboxBase.metadata.create_all)
        await connection.execute(sa.insert(Account).values(tenant="acme", seconds=0))
    broker = RabbitBroker()

    @broker.subscriber("calls")
    async def bill(call: Call, message: RabbitMessage) -> None:
        async def add(session: AsyncSession) -> None:
            account = await session.get_one(Account, "acme")
            account.seconds += call.seconds

        print(message.message_id, await once(message, sessions, "billing", add))
        # > call-7 True
        # > call-7 False
        # > call-8 True

    async with TestRabbitBroker(broker):
        for message_id in ("call-7", "call-7", "call-8"):
            await broker.publish(Call(seconds=60), "calls", message_id=message_id)

    async with session_scope(sessions) as session:
        print((await session.get_one(Account, "acme")).seconds)
        # > 120
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
