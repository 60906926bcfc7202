"""Let a message that comes twice have its effect once.

The consumer's name and the message's id are written first, in the transaction of the
effect. A second delivery finds them there and does nothing. If both come at once, the
second waits for the first: it does nothing if that one commits, and handles the message
itself if that one fails. Nothing is acknowledged before the effect is committed.

What the effect does outside of its session is not undone, nor done only once. Keep
entries longer than any message may wait, in a queue or as a dead letter.
"""

import time
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from faststream.exceptions import RejectMessage
from faststream.rabbit import RabbitMessage
from sqlalchemy import orm
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from snippets.database.async_session import session_scope

Effect = Callable[[AsyncSession], Awaitable[object]]


class InboxBase(orm.DeclarativeBase):
    """What the table belongs to; migrations take its `metadata` in addition."""


class InboxEntry(InboxBase):
    """A message that a consumer has handled, and when, in seconds since 1970."""

    __tablename__ = "inbox_entries"

    consumer: Mapped[str] = mapped_column(sa.String(100), primary_key=True)
    message_id: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    handled_at: Mapped[float] = mapped_column(sa.Double, index=True)


async def once(
    message: RabbitMessage,
    sessions: async_sessionmaker[AsyncSession],
    consumer: str,
    effect: Effect,
    *,
    now: Callable[[], float] = time.time,
) -> bool:
    """Run `effect` in a transaction; return False if the consumer had run it before.

    Raises `RejectMessage`, which moves it to the dead letters, for a message without an
    id or with a NUL in it, which PostgreSQL cannot store. What `effect` raises is
    passed on after the rollback, so that the message can be tried again. Handlers of
    two purposes need two names.
    """
    # FastStream makes up an id where there is none: another one for each delivery.
    message_id = message.raw_message.message_id
    if not message_id or "\0" in message_id:
        raise RejectMessage
    entry = {"consumer": consumer, "message_id": message_id, "handled_at": now()}
    async with session_scope(sessions) as session:
        try:
            await session.execute(sa.insert(InboxEntry).values(entry))
        except IntegrityError:
            await session.rollback()
            return False
        await effect(session)
    return True


async def purge(session: AsyncSession, *, before: float, limit: int) -> int:
    """Forget at most `limit` messages handled `before` a time; return how many."""
    key = sa.tuple_(InboxEntry.consumer, InboxEntry.message_id)
    old = sa.select(InboxEntry.consumer, InboxEntry.message_id)
    old = old.where(InboxEntry.handled_at < before)
    oldest = old.order_by(InboxEntry.handled_at).limit(limit)
    delete = sa.delete(InboxEntry).where(key.in_(oldest))
    rows = await session.scalars(delete.returning(InboxEntry.message_id))
    return len(rows.all())
