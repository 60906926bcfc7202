"""Retries and a dead-letter exchange around a handler, as written first."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from faststream.exceptions import NackMessage
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitMessage


@dataclass
class RetryingHandler:
    """Runs a handler until it succeeds or has failed too often."""

    broker: RabbitBroker
    handler: Callable[[RabbitMessage], Awaitable[None]]
    dead_letters: RabbitExchange
    attempts: int = 20
    failures: Counter[str] = field(default_factory=Counter)

    async def __call__(self, message: RabbitMessage) -> None:
        """Handle a message, which is acknowledged afterwards."""
        try:
            await self.handler(message)
        except Exception as error:
            self.failures[message.message_id] += 1
            if self.failures[message.message_id] < self.attempts:
                raise NackMessage from error
            await self.broker.publish(
                message.body,
                exchange=self.dead_letters,
                headers={"x-error": str(error)},
            )
