"""Look whether a message was handled, handle it, then note that it was."""

import time

from faststream.rabbit import RabbitMessage
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from snippets.messaging.inbox import Effect, InboxEntry


async def once(
    message: RabbitMessage,
    sessions: async_sessionmaker[AsyncSession],
    consumer: str,
    effect: Effect,
) -> bool:
    """Run `effect` unless this consumer has handled the message."""
    key = consumer, message.message_id
    async with sessions() as session:
        if await session.get(InboxEntry, key) is not None:
            return False
        await effect(session)
        await session.commit()
        entry = InboxEntry(consumer=consumer, message_id=message.message_id)
        entry.handled_at = time.time()
        session.add(entry)
        await session.commit()
    return True
