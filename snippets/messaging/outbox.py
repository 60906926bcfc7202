"""Write events in the transaction of what they tell, so that neither exists alone.

A rollback takes both. What is committed waits for a relay, and its row says what became
of it. Events of one key leave in the order of their ids: that of the commits, if each
of its transactions first writes one row, even to what it was, since `enqueue` flushes
the session before the event gets its id.

What could not be published is parked. It holds back its key, and no other, until it is
replayed or its row is deleted. All times are in seconds since 1970.
Source: https://microservices.io/patterns/data/transactional-outbox.html
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import event as listeners
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from snippets.messaging.events import DomainEvent

Sessions = async_sessionmaker[AsyncSession]
WHERE = "postgresql_where", "sqlite_where"
NAME_BYTES, TEXT_BYTES = 128, 16_384  # of a key or header's name; of all with values


class OutboxBase(orm.DeclarativeBase):
    """What the table belongs to; migrations take its `metadata` in addition."""


class OutboxMessage(OutboxBase):
    """An event that is to be published, or was."""

    __tablename__ = "outbox_messages"
    waiting: ClassVar[Any] = dict.fromkeys(WHERE, sa.text("published_at IS NULL"))
    __table_args__ = (
        sa.Index("ix_outbox_messages_waiting", "id", **waiting),
        sa.Index("ix_outbox_messages_key", "key", "id", **waiting),
        {"sqlite_autoincrement": True},  # an id is never given twice
    )

    id: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        sa.Identity(always=True),
        primary_key=True,
    )
    message_id: Mapped[UUID] = mapped_column(unique=True, insert_sentinel=True)
    key: Mapped[str | None] = mapped_column(sa.String(NAME_BYTES))
    type: Mapped[str] = mapped_column(sa.String(101))
    routing_key: Mapped[str] = mapped_column(sa.String(255))
    correlation_id: Mapped[str] = mapped_column(sa.String(128))
    headers: Mapped[dict[str, str]] = mapped_column(sa.JSON)
    body: Mapped[bytes]
    created_at: Mapped[float] = mapped_column(sa.Double)
    due_at: Mapped[float] = mapped_column(sa.Double, default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(sa.String(100))
    parked_at: Mapped[float | None] = mapped_column(sa.Double)
    published_at: Mapped[float | None] = mapped_column(sa.Double, index=True)


async def enqueue(
    session: AsyncSession,
    event: DomainEvent[Any],
    *,
    key: str | None,
    headers: Mapping[str, str] | None = None,
    now: Callable[[], float] = time.time,
) -> None:
    """Have an event published if and when the session's transaction commits.

    Events of one `key`, such as `user:7`, keep their order; those of None have none.
    Raises for what cannot be serialised, and for what no relay could send.
    """
    headers = {**(headers or {}), "tenant": event.tenant}
    text = "".join((key or "", *headers, *headers.values())).encode()
    longest = max(len(one.encode()) for one in (key or "", *headers))
    if len(text) > TEXT_BYTES or longest > NAME_BYTES or b"\0" in text:
        raise ValueError("key or headers are too long, or have a NUL in them")
    row = OutboxMessage(
        message_id=event.event_id,
        key=key,
        type=event.event_type,
        routing_key=event.routing_key,
        correlation_id=event.correlation_id,
        headers=headers,
        body=event.encode(),
        created_at=now(),
    )
    held = (*session.new, *session.dirty, *session.deleted)
    if any(not isinstance(one, OutboxMessage) for one in held):
        await session.flush()
    session.add(row)
    session.info["outbox"] = True


def wake_after_commit(sessions: Sessions, wake: Callable[[], object]) -> None:
    """Call `wake` after commits of events, by sessions made from now on.

    It is a hint: it may come for nothing, or not at all if the process dies.
    """

    def committed(session: orm.Session) -> None:
        if "outbox" in session.info:
            wake()

    base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
    own = type(base.__name__, (base,), {})
    listeners.listen(own, "after_commit", committed)
    sessions.configure(sync_session_class=own)


@dataclass(frozen=True)
class Backlog:
    """What waits, for metrics: `oldest` is its age in seconds, parked rows apart."""

    pending: int
    oldest: float
    parked: int


async def backlog(session: AsyncSession, now: float) -> Backlog:
    """Count what waits, in one SELECT."""
    parked, count = OutboxMessage.parked_at.is_not(None), sa.func.count()
    first = sa.func.min(OutboxMessage.created_at).filter(~parked)
    columns = count.filter(~parked), now - first, count.filter(parked)
    waiting = sa.select(*columns).where(OutboxMessage.published_at.is_(None))
    row = (await session.execute(waiting)).one()
    return Backlog(row[0], row[1] or 0.0, row[2])


async def replay(session: AsyncSession, *message_ids: UUID) -> int:
    """Give parked events all their attempts again; return how many it were."""
    found = OutboxMessage.message_id.in_(message_ids)
    again = sa.update(OutboxMessage).where(found, OutboxMessage.parked_at.is_not(None))
    again = again.values(parked_at=None, attempts=0, due_at=0.0)
    return len((await session.scalars(again.returning(OutboxMessage.id))).all())


async def purge(session: AsyncSession, *, before: float, limit: int) -> int:
    """Delete at most `limit` events published `before` a time; return how many."""
    done = sa.select(OutboxMessage.id).where(OutboxMessage.published_at < before)
    old = OutboxMessage.id.in_(done.order_by(OutboxMessage.published_at).limit(limit))
    delete = sa.delete(OutboxMessage).where(old).returning(OutboxMessage.id)
    return len((await session.scalars(delete)).all())
