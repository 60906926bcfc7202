"""Commit, then publish; or publish, then commit: as written first."""

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.messaging.events import DomainEvent, EventData
from snippets.messaging.rabbit_broker import Outgoing, publish_confirmed


async def commit_then_publish(
    session: AsyncSession, broker: RabbitBroker, event: DomainEvent[EventData]
) -> None:
    """Tell what has happened."""
    await session.commit()
    await _publish(broker, event)


async def publish_then_commit(
    session: AsyncSession, broker: RabbitBroker, event: DomainEvent[EventData]
) -> None:
    """Keep what could be told."""
    await _publish(broker, event)
    await session.commit()


async def _publish(broker: RabbitBroker, event: DomainEvent[EventData]) -> None:
    message = Outgoing(
        body=event.encode(),
        message_id=str(event.event_id),
        routing_key=event.routing_key,
    )
    await publish_confirmed(broker, message)
