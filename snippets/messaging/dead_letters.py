"""Try a failed message again later, and keep what cannot be handled with its history.

Each wait is a queue whose time to live hands messages back: no consumer sleeps, and
neighbours overtake. The exchange that a message comes from says which attempt it is; no
header can. A message that fails for good is in the dead-letter queue exactly once, or
twice under one id if its consumer dies before it can acknowledge. RabbitMQ moves it
there by itself, without a history, after `crashes` lost connections or restarts.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from traceback import extract_tb
from typing import Annotated, Any
from uuid import uuid4

from faststream import Context, ExceptionMiddleware
from faststream.exceptions import NackMessage, RejectMessage
from faststream.rabbit import ExchangeType, QueueType, RabbitBroker, RabbitExchange
from faststream.rabbit.schemas.queue import QuorumQueueArgs, RabbitQueue

from snippets.messaging.rabbit_broker import Outgoing, PublishError, publish_confirmed

Incoming = Any  # the message of aio-pika, which FastStream brings along
ERROR_CHARACTERS = 200
OWN = "x-failed-"  # how the headers begin that tell a message's history
BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")


def where(error: Exception) -> str:
    """Return an error's types and place, and not its text, which may hold a secret."""
    inner = [error.__cause__] if error.__cause__ else getattr(error, "exceptions", [])
    names = [type(one).__name__ for one in (error, *inner)]
    places = [f" in {one.name}:{one.lineno}" for one in extract_tb(error.__traceback__)]
    return " < ".join(names) + "".join(places[-1:])


@dataclass(frozen=True)
class RetryPolicy:
    """What is tried again, and after how many seconds, at least half of them."""

    retry_on: tuple[type[Exception], ...]
    delays: tuple[float, ...] = (1, 10, 60)
    crashes: int = 5
    uniform: Callable[[float, float], float] = random.uniform

    def retries(self, error: Exception) -> bool:
        """Return whether to try again: of a group, all errors must be listed."""
        if isinstance(error, ExceptionGroup):
            return error.split(self.retry_on)[1] is None
        return isinstance(error, self.retry_on)


@dataclass(frozen=True)
class Topology:
    """A work queue, and the queues and exchanges around it that are named after it."""

    name: str
    policy: RetryPolicy

    def work(self, routing_key: str = "") -> RabbitQueue:
        """Return the queue to subscribe to, bound under this key."""
        limit = self.policy.crashes
        return self._queue(self.name, "dead", {"x-delivery-limit": limit}, routing_key)

    def retry(self, attempt: int) -> RabbitQueue:
        """Return the queue in which a message waits after this attempt."""
        name, ttl = f"{self.name}.retry.{attempt}", self.policy.delays[attempt - 1]
        then, limit = f"attempt.{attempt + 1}", round(ttl * 1000)
        return self._queue(name, then, {"x-message-ttl": limit})

    def dead(self) -> RabbitQueue:
        """Return the dead-letter queue."""
        return RabbitQueue(f"{self.name}.dead", QueueType.QUORUM)

    def exchange(self, suffix: str) -> RabbitExchange:
        """Return an exchange to one queue, which leaves the routing key as it is."""
        return RabbitExchange(f"{self.name}.{suffix}", type=ExchangeType.FANOUT)

    def copy(self, message: Incoming, error: Exception) -> Outgoing:
        """Return what to publish in place of a message that failed."""
        source, _, number = message.exchange.rpartition(".attempt.")
        attempt = int(number) if source == self.name else 1
        inside = attempt > 1 or message.exchange == self.exchange("replay").name
        forged = BROKERS if inside else (*BROKERS, OWN)
        headers = {k: v for k, v in message.headers.items() if not k.startswith(forged)}
        again = self.policy.retries(error)
        wait = self.policy.delays[attempt - 1 : attempt] if again else ()
        text = where(error)[:ERROR_CHARACTERS]
        first = {OWN + "exchange": message.exchange, OWN + "first-error": text}
        last = {OWN + "attempts": attempt, OWN + "last-error": text}
        last[OWN + "reason"] = "attempts" if again else "error"
        return Outgoing(
            body=message.body,
            message_id=message.message_id or uuid4().hex,
            exchange=self.exchange(f"retry.{attempt}" if wait else "dead"),
            routing_key=message.routing_key,
            correlation_id=message.correlation_id,
            content_type=message.content_type,
            type=message.type,
            headers=first | headers | last,
            expiration=self.policy.uniform(wait[0] / 2, wait[0]) if wait else None,
        )

    def _queue(
        self, name: str, then: str, limit: QuorumQueueArgs, key: str = ""
    ) -> RabbitQueue:
        arguments: QuorumQueueArgs = {
            "x-dead-letter-exchange": self.exchange(then).name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            **limit,
        }
        return RabbitQueue(name, QueueType.QUORUM, arguments=arguments, routing_key=key)


async def declare_topology(broker: RabbitBroker, topology: Topology) -> None:
    """Declare all queues and exchanges; call it after `connect` and before `start`."""

    async def declare(queue: RabbitQueue, *exchanges: str) -> None:
        declared = await broker.declare_queue(queue)
        for name in exchanges:
            exchange = await broker.declare_exchange(topology.exchange(name))
            await declared.bind(exchange)

    steps = range(1, len(topology.policy.delays) + 1)
    await declare(topology.dead(), "dead")
    await declare(topology.work(), "replay", *(f"attempt.{one + 1}" for one in steps))
    for one in steps:
        await declare(topology.retry(one), f"retry.{one}")


def set_aside(broker: RabbitBroker, topology: Topology) -> ExceptionMiddleware:
    """Return the middleware of a `RabbitRouter` whose subscriber is on the work queue.

    A message whose handler raises is acknowledged once its copy is confirmed, else put
    back. `RejectMessage` means the dead-letter queue.
    """
    middleware = ExceptionMiddleware()

    @middleware.add_handler(RejectMessage)
    @middleware.add_handler(Exception)
    async def handle(error: Exception, message: Annotated[Incoming, Context()]) -> None:
        raw = getattr(message, "raw_message", message)  # itself if it was not decoded
        try:
            await publish_confirmed(broker, topology.copy(raw, error))
        except PublishError as failure:
            raise NackMessage from failure

    return middleware
