"""Publish what waits in the outbox, at least once and in the order of each key.

A relay claims the first waiting event of as many keys as a batch holds, publishes them
side by side, and marks them. A claim is a lease: an event that its relay did not mark,
because it died, is published again by any other, under the same message id. Any number
of relays may run. No transaction, and so no lock, is open while it publishes.

What the broker does not confirm is tried again after 1, 2, 4... seconds, and parked
after the last attempt. Its key waits meanwhile, and no other does. What raises when it
is published is treated likewise. A crash of the relay counts as an attempt.

The lease, in seconds, must outlast the publishing of a batch and the difference between
the clocks of the relays, or a second relay publishes the same event meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa
from faststream.rabbit import RabbitExchange
from sqlalchemy import orm
from sqlalchemy.exc import SQLAlchemyError

from snippets.database.async_session import session_scope
from snippets.messaging.outbox import OutboxBase, OutboxMessage, Sessions
from snippets.messaging.rabbit_broker import Outgoing

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class OutboxRelay:
    """Publishes to one exchange; `publish` must raise if it was not confirmed.

    By default, an event is parked when an outage has lasted for 58 minutes.
    """

    sessions: Sessions
    publish: Callable[[Outgoing], Awaitable[object]]
    exchange: RabbitExchange | str
    batch: int = 100
    lease: float = 60.0
    interval: float = 1.0
    attempts: int = 20
    longest: float = 300.0
    now: Callable[[], float] = time.time
    _woken: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def wake(self) -> None:
        """Have `run` look now, and not after the interval."""
        self._woken.set()

    async def run(self) -> None:
        """Relay until cancelled; while nothing is due, one SELECT per interval.

        An error of the database is logged without its text, and tried again.
        """
        while True:
            self._woken.clear()
            try:
                if await self._is_due():
                    await self.drain()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the outbox is not relayed: %s", type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval):
                    await self._woken.wait()

    async def drain(self) -> int:
        """Relay batches until one has nothing published; return how many were."""
        total = 0
        while published := await self.relay_batch():
            total += published
        return total

    async def relay_batch(self) -> int:
        """Claim, publish and mark one batch; return how many were published."""
        rows = await self._claim()
        sending = (self._send(row) for row in rows)
        results = await asyncio.gather(*sending, return_exceptions=True)
        names = [None if one is None else type(one).__name__ for one in results]
        await self._mark(zip(rows, names, strict=True))
        return names.count(None)

    def _heads(self) -> sa.Select[int]:
        """Select the first waiting event of each key, if it is due and not parked."""
        row, other = OutboxMessage, orm.aliased(OutboxMessage)
        same = other.key == row.key, other.published_at.is_(None)
        first = sa.select(sa.func.min(other.id)).where(*same).scalar_subquery()
        pending = row.published_at.is_(None), row.parked_at.is_(None)
        head = sa.or_(row.key.is_(None), row.id == first)
        due = row.due_at <= self.now()
        return sa.select(row.id).where(*pending, due, head).order_by(row.id)

    async def _is_due(self) -> bool:
        async with session_scope(self.sessions) as session:
            return await session.scalar(self._heads().limit(1)) is not None

    async def _claim(self) -> Sequence[OutboxMessage]:
        heads = self._heads().limit(self.batch).with_for_update(skip_locked=True)
        # As a subquery PostgreSQL might evaluate it twice, and lock other rows then.
        ids = sa.select(heads.cte("heads").c.id)
        attempts, due_at = OutboxMessage.attempts + 1, self.now() + self.lease
        claim = sa.update(OutboxMessage).where(OutboxMessage.id.in_(ids))
        claim = claim.values(attempts=attempts, due_at=due_at)
        async with session_scope(self.sessions) as session:
            rows = await session.scalars(claim.returning(OutboxMessage))
            return sorted(rows, key=lambda row: row.id)

    async def _send(self, row: OutboxMessage) -> None:
        message = Outgoing(
            body=row.body,
            message_id=str(row.message_id),
            routing_key=row.routing_key,
            exchange=self.exchange,
            correlation_id=row.correlation_id,
            type=row.type,
            headers=row.headers,
        )
        await self.publish(message)
        about = row.type, row.message_id, row.correlation_id
        logger.info("published %s %s of %r", *about)

    async def _mark(self, results: Iterable[tuple[OutboxMessage, str | None]]) -> None:
        now, table = self.now(), OutboxBase.metadata.tables["outbox_messages"]
        done, failed = [], []
        for row, error in results:
            if error is None:
                done.append(row.id)
                continue
            wait = min(self.longest, 2.0 ** min(row.attempts - 1, 30))
            parked_at = now if row.attempts >= self.attempts else None
            values = {"error": error, "due_at": now + wait, "parked_at": parked_at}
            failed.append({"row": row.id, "claim": row.attempts, **values})
            logger.warning("%s is not published: %s", row.message_id, error)
        async with session_scope(self.sessions) as session:
            if done:
                mark = sa.update(OutboxMessage).where(OutboxMessage.id.in_(done))
                await session.execute(mark.values(published_at=now, error=None))
            if failed:
                # A claim that another relay has taken over has another number.
                claim = table.c.attempts == sa.bindparam("claim")
                later = sa.update(table).where(table.c.id == sa.bindparam("row"), claim)
                await (await session.connection()).execute(later, failed)
