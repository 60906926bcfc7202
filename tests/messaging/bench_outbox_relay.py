"""What relaying 100 messages costs, beside publishing them with confirms directly.

On PostgreSQL and RabbitMQ, for batches of 1, 10 and 100, with a thousand rows waiting,
with a hundred thousand, and with as many held back by the head of their key: those
are looked at by each claim, so there only the largest batch is measured. The rows
are given back before each stretch, which is not timed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import sqlalchemy as sa
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue
from sqlalchemy.ext.asyncio import AsyncEngine

from catalogue.bench import Case, compare
from snippets.database.async_session import create_engine_and_sessions
from snippets.messaging.outbox import OutboxBase, OutboxMessage, Sessions
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.rabbit_broker import Outgoing, make_broker, publish_confirmed
from tests.support.databases import postgresql_database, postgresql_version
from tests.support.outbox import events
from tests.support.rabbitmq import real_broker

MESSAGES = 100
ROUNDS = 5
BODY = b'{"number":"1001","target":"voicemail"}' * 8
FILL = sa.text(
    """INSERT INTO outbox_messages (message_id, key, type, routing_key,
    correlation_id, headers, body, created_at, due_at, attempts)
    SELECT gen_random_uuid(), coalesce(CAST(:key AS text), 'key:' || n),
    'extension.forwarded',
    'extension.forwarded.acme', 'request-1', '{"tenant": "acme"}', :body, 0, 0, 0
    FROM generate_series(1, :rows) AS n"""
)
AGAIN = sa.text(
    """UPDATE outbox_messages SET published_at = NULL, due_at = 0, attempts = 0
    WHERE published_at IS NOT NULL OR attempts > 0"""
)


@dataclass
class Bench:
    """A database and a broker."""

    engine: AsyncEngine
    sessions: Sessions
    broker: RabbitBroker
    exchange: RabbitExchange

    async def fill(self, rows: int, key: str | None = None) -> None:
        """Add rows, of one key or of as many keys as rows."""
        values = {"rows": rows, "key": key, "body": BODY}
        async with self.engine.begin() as connection:
            await connection.execute(FILL, values)
        async with self.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.text("VACUUM ANALYZE outbox_messages"))

    async def again(self) -> None:
        """Give back what was relayed."""
        async with self.engine.begin() as connection:
            await connection.execute(AGAIN)

    async def waiting(self, rows: int, key: str | None = None) -> None:
        """Have so many rows waiting in all, those of `key` for its head."""
        async with self.engine.begin() as connection:
            await connection.execute(sa.delete(OutboxMessage))
        if key is not None:
            await self.fill(rows, key)
            head = sa.select(sa.func.min(OutboxMessage.id)).scalar_subquery()
            later = sa.update(OutboxMessage).where(OutboxMessage.id == head)
            async with self.engine.begin() as connection:
                await connection.execute(later.values(due_at=1e12))
        await self.fill(1000 if key is not None else rows)

    def message(self, number: int) -> Outgoing:
        """Return what a relay would publish."""
        return Outgoing(
            body=BODY,
            message_id=str(UUID(int=number)),
            routing_key="extension.forwarded.acme",
            exchange=self.exchange,
            correlation_id="request-1",
            type="extension.forwarded",
            headers={"tenant": "acme"},
        )

    async def one_by_one(self) -> None:
        """Publish without an outbox."""
        for number in range(MESSAGES):
            await publish_confirmed(self.broker, self.message(number))

    async def at_once(self) -> None:
        """Publish without an outbox, side by side."""
        await asyncio.gather(
            *(
                publish_confirmed(self.broker, self.message(number))
                for number in range(MESSAGES)
            )
        )

    def relayed(self, batch: int) -> Callable[[], Awaitable[None]]:
        """Return a function that relays as many in batches."""
        relay = OutboxRelay(
            sessions=self.sessions,
            publish=partial(publish_confirmed, self.broker),
            exchange=self.exchange,
            batch=batch,
        )

        async def relayed() -> None:
            for _ in range(MESSAGES // batch):
                if await relay.relay_batch() != batch:
                    raise RuntimeError("there were too few rows")

        return relayed

    def cases(
        self,
        group: str,
        setup: Callable[[], Awaitable[None]],
        batches: tuple[int, ...] = (1, 10, 100),
    ) -> list[Case]:
        """Return the cases of one group."""
        group = f"{MESSAGES} messages, {group}"
        floor, peer = "published one by one", "published at once"
        return [
            Case(group=group, name=floor, run=self.one_by_one, floor=True),
            Case(group=group, name=peer, run=self.at_once),
            *(
                Case(
                    group=group,
                    name=f"relayed in batches of {batch}",
                    run=self.relayed(batch),
                    ours=True,
                    setup=setup,
                )
                for batch in batches
            ),
        ]

    def once(self, rows: int, key: str | None = None) -> Callable[[], Awaitable[None]]:
        """Return the set-up of a group, which fills the table when it first runs."""
        filled: list[int] = []

        async def setup() -> None:
            if not filled:
                filled.append(rows)
                await self.waiting(rows, key)
            await self.again()

        return setup


async def main() -> None:
    """Compare."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgresql_database())
        server = await stack.enter_async_context(real_broker())
        engine, sessions = create_engine_and_sessions(url)
        stack.push_async_callback(engine.dispose)
        async with engine.begin() as connection:
            await connection.run_sync(OutboxBase.metadata.create_all)
        broker, exchange = make_broker(server.url), events(server.name("events"))
        await stack.enter_async_context(server.running(broker))
        queue = RabbitQueue(server.name("q"), arguments={"x-max-length": 1000})
        declared = await broker.declare_queue(queue)
        await declared.bind(await broker.declare_exchange(exchange), "#")
        bench = Bench(engine, sessions, broker, exchange)
        await compare(
            "messaging/outbox_relay",
            [
                *bench.cases("1,000 wait", bench.once(1000)),
                *bench.cases("100,000 wait", bench.once(100_000)),
                *bench.cases(
                    "100,000 wait for the head of their key",
                    bench.once(100_000, "extension:1001"),
                    (100,),
                ),
            ],
            rounds=ROUNDS,
            servers={
                "PostgreSQL": await postgresql_version(),
                "RabbitMQ": await server.version(),
            },
        )


if __name__ == "__main__":
    asyncio.run(main())
