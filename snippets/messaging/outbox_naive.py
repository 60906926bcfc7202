"""Commit, then publish; or publish, then commit: as written first."""

from typing import Any

from faststream.rabbit import RabbitBroker, RabbitExchange
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.messaging.events import DomainEvent
from snippets.messaging.rabbit_broker import Outgoing, publish_confirmed


async def commit_then_publish(
    session: AsyncSession,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    event: DomainEvent[Any],
) -> None:
    """Tell what has happened."""
    await session.commit()
    await publish(broker, exchange, event)


async def publish_then_commit(
    session: AsyncSession,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    event: DomainEvent[Any],
) -> None:
    """Keep what could be told."""
    await publish(broker, exchange, event)
    await session.commit()


async def publish(
    broker: RabbitBroker, exchange: RabbitExchange, event: DomainEvent[Any]
) -> None:
    """Publish an event under its own id."""
    message = Outgoing(
        body=event.encode(),
        message_id=str(event.event_id),
        routing_key=event.routing_key,
        exchange=exchange,
    )
    await publish_confirmed(broker, message)
