"""Read what is unsent, publish it, and commit the batch, as written first."""

import time
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from snippets.messaging.outbox import OutboxMessage
from snippets.messaging.rabbit_broker import Outgoing


async def relay_batch(
    sessions: async_sessionmaker[AsyncSession],
    publish: Callable[[Outgoing], Awaitable[object]],
    exchange: str,
) -> None:
    """Publish the oldest hundred."""
    unsent = sa.select(OutboxMessage).where(OutboxMessage.published_at.is_(None))
    async with sessions.begin() as session:
        rows = await session.scalars(unsent.order_by(OutboxMessage.id).limit(100))
        for row in rows.all():
            message = Outgoing(
                body=row.body,
                message_id=str(row.message_id),
                routing_key=row.routing_key,
                exchange=exchange,
            )
            await publish(message)
            row.published_at = time.time()
