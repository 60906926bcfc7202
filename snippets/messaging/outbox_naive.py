"""Commit, then publish; or publish, then commit: as written first."""

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.messaging.rabbit_broker import Outgoing, publish_confirmed


async def commit_then_publish(
    session: AsyncSession, broker: RabbitBroker, message: Outgoing
) -> None:
    """Tell what has happened."""
    await session.commit()
    await publish_confirmed(broker, message)


async def publish_then_commit(
    session: AsyncSession, broker: RabbitBroker, message: Outgoing
) -> None:
    """Keep what could be told."""
    await publish_confirmed(broker, message)
    await session.commit()
