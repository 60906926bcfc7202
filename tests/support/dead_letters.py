"""A consumer whose handler fails as a test wants, with its queues."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faststream.rabbit import ExchangeType, RabbitExchange, RabbitMessage, RabbitRouter

from snippets.messaging.dead_letters import (
    RetryPolicy,
    Topology,
    declare_topology,
    set_aside,
)
from snippets.messaging.rabbit_broker import Outgoing, make_broker, publish_confirmed
from tests.support.rabbitmq import RealBrokerServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from faststream.rabbit import RabbitBroker

    from tests.support.rabbitmq import AnyBroker

DELAYS = (0.05, 0.1)


@dataclass
class Mailer:
    """A service that mails voicemails, and notes each delivery."""

    server: AnyBroker
    fail: Callable[[RabbitMessage], object]
    policy: RetryPolicy
    deliveries: list[RabbitMessage] = field(default_factory=list)
    arrived: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        """Name everything after this test."""
        self.topology = Topology(self.server.name("mailer"), self.policy)
        for suffix in ("dead", "replay"):
            self.server.name(f"mailer.{suffix}")
        for attempt in range(1, len(self.policy.delays) + 1):
            self.server.name(f"mailer.retry.{attempt}")
            self.server.name(f"mailer.attempt.{attempt + 1}")
        name = self.server.name("events")
        self.events = RabbitExchange(name, type=ExchangeType.TOPIC)
        self.broker = self.make(self.server.url)

    def make(self, url: str) -> RabbitBroker:
        """Return a broker with the consumer on it."""
        broker = make_broker(url)
        router = RabbitRouter(middlewares=[set_aside(broker, self.topology)])
        work = self.topology.work("voicemail.left.*")

        @router.subscriber(work, self.events)
        async def mail(message: RabbitMessage) -> None:
            self.deliveries.append(message)
            self.arrived.put_nowait(message.message_id)
            failing = self.fail(message)
            if inspect.isawaitable(failing):
                await failing

        broker.include_router(router)
        return broker

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RabbitBroker]:
        """Declare the queues, and then consume."""
        async with asyncio.timeout(30):
            if isinstance(self.server, RealBrokerServer):
                await self.broker.connect()
                await declare_topology(self.broker, self.topology)
            async with self.server.running(self.broker):
                yield self.broker

    async def leave(self, message_id: str = "m1", body: bytes = b"{}") -> None:
        """Publish that somebody left a voicemail."""
        await publish_confirmed(
            self.broker,
            Outgoing(
                body=body,
                message_id=message_id,
                exchange=self.events,
                routing_key="voicemail.left.acme",
                correlation_id="request-1",
                type="voicemail.left",
                headers={"tenant": "acme"},
            ),
        )

    def attempts(self, message_id: str = "m1") -> int:
        """Return how often a message was delivered."""
        return sum(one.message_id == message_id for one in self.deliveries)
