"""Publish what waits in the outbox, at least once and in the order of each key.

A relay claims the first waiting event of as many keys as a batch holds, publishes them
side by side, and marks them. A claim is a lease: what its relay did not mark, any other
publishes again, under the same message id. No transaction is open while it publishes.

What is not confirmed is tried again after some 1, 2, 4... seconds, apart from what has
failed with it, and parked after the last attempt; its key waits. A relay that dies has
used an attempt; cancelled after a claim, it marks what is confirmed, returns the rest.

The lease, in seconds, must outlast the publishing of a batch and the difference between
the clocks of the relays, or a second relay publishes the same event meanwhile.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from faststream.rabbit import RabbitExchange
from sqlalchemy import orm
from sqlalchemy.exc import SQLAlchemyError

from snippets.database.async_session import session_scope
from snippets.messaging.outbox import OutboxBase, OutboxMessage, Sessions
from snippets.messaging.rabbit_broker import Outgoing

logger = logging.getLogger(__name__)
Sending = dict[asyncio.Task[None], OutboxMessage]
SAME = ("body", "routing_key", "correlation_id", "type", "headers")


@dataclass(kw_only=True)
class OutboxRelay:
    """Publishes to one exchange; `publish` must raise if it was not confirmed."""

    sessions: Sessions
    publish: Callable[[Outgoing], Awaitable[object]]
    exchange: RabbitExchange | str
    batch: int = 100
    lease: float = 60.0
    interval: float = 1.0
    attempts: int = 20  # which are used up when an outage has lasted 29 to 58 minutes
    longest: float = 300.0
    now: Callable[[], float] = time.time
    uniform: Callable[[float, float], float] = random.uniform
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Have `run` look now, and not after the interval."""
        self.woken.set()

    async def run(self) -> None:
        """Relay until cancelled; while nothing is due, one SELECT per interval.

        An error of the database is logged without its text, and tried again.
        """
        while True:
            self.woken.clear()
            try:
                if await self._is_due():
                    await self.drain()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the outbox is not relayed: %s", type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval):
                    await self.woken.wait()

    async def drain(self) -> int:
        """Relay batches until one has nothing published; return how many were."""
        total = 0
        while published := await self.relay_batch():
            total += published
        return total

    async def relay_batch(self) -> int:
        """Claim, publish and mark one batch; return how many were published."""
        rows = await self._claim()
        sending = {asyncio.create_task(self._send(row)): row for row in rows}
        marking = asyncio.create_task(self._mark(sending))
        try:
            return await asyncio.shield(marking)
        finally:
            for one in sending:
                one.cancel()
            await asyncio.wait([marking])

    def _heads(self) -> sa.Select[int]:
        """Select the first waiting event of each key, if it is due and not parked."""
        row, other = OutboxMessage, orm.aliased(OutboxMessage)
        same = other.key == row.key, other.published_at.is_(None)
        first = sa.select(sa.func.min(other.id)).where(*same).scalar_subquery()
        pending = row.published_at.is_(None), row.parked_at.is_(None)
        head = sa.or_(row.key.is_(None), row.id == first), row.due_at <= self.now()
        return sa.select(row.id).where(*pending, *head).order_by(row.id)

    async def _is_due(self) -> bool:
        async with session_scope(self.sessions) as session:
            return await session.scalar(self._heads().limit(1)) is not None

    async def _claim(self) -> Sequence[OutboxMessage]:
        heads = self._heads().limit(self.batch).with_for_update(skip_locked=True)
        # As a subquery PostgreSQL might evaluate it twice, and lock other rows then.
        ids = sa.select(heads.cte("heads").c.id)
        row, due_at = OutboxMessage, self.now() + self.lease
        claim = sa.update(row).where(row.id.in_(ids)).returning(row)
        claim = claim.values(attempts=row.attempts + 1, due_at=due_at)
        async with session_scope(self.sessions) as session:
            return sorted(await session.scalars(claim), key=lambda one: one.id)

    async def _send(self, row: OutboxMessage) -> None:
        if row.attempts > self.attempts:
            raise TimeoutError("whoever claimed it has died")
        same: dict[str, Any] = {name: getattr(row, name) for name in SAME}
        id_ = str(row.message_id)
        await self.publish(Outgoing(message_id=id_, exchange=self.exchange, **same))
        logger.info("published %s %s of %r", row.type, id_, row.correlation_id)

    async def _mark(self, sending: Sending) -> int:
        ends = await asyncio.gather(*sending, return_exceptions=True)
        now, table = self.now(), OutboxBase.metadata.tables["outbox_messages"]
        done, failed = [], []
        for (one, row), error in zip(sending.items(), ends, strict=True):
            if error is None:
                done.append(row.id)
                continue
            name, attempts = type(error).__name__, row.attempts - bool(one.cancelling())
            wait = min(self.longest, 2.0 ** min(attempts - 1, 30))
            due_at = now + self.uniform(wait / 2, wait)
            parked_at = now if attempts >= self.attempts else None
            claim = {"row": row.id, "claim": row.attempts, "error": name[:100]}
            values = {"attempts": attempts, "due_at": due_at, "parked_at": parked_at}
            failed.append(claim | values)
            logger.warning("%s is not published: %s", row.message_id, name)
        async with session_scope(self.sessions) as session:
            if done:
                mark = sa.update(OutboxMessage).where(OutboxMessage.id.in_(done))
                mark = mark.values(published_at=now, parked_at=None, error=None)
                await session.execute(mark)
            if failed:
                # A claim that another relay has taken over has another number.
                own = table.c.attempts == sa.bindparam("claim")
                later = sa.update(table).where(table.c.id == sa.bindparam("row"), own)
                await (await session.connection()).execute(later, failed)
        return len(done)
