"""Try a failed message again later, and keep what cannot be handled with its history.

Each wait is a queue whose time to live hands messages back: no consumer sleeps, and
neighbours overtake. The exchange that a message comes from says which attempt it is; no
header can. What fails for good is in the dead-letter queue once, and once more for each
cut between a confirmation and its acknowledgement. After `crashes` lost connections or
restarts RabbitMQ moves it there, or drops it if its publisher forged an `x-death`.
"""

import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from traceback import extract_tb
from typing import Annotated, Any
from uuid import uuid4

from faststream import Context, ExceptionMiddleware
from faststream.exceptions import NackMessage, RejectMessage
from faststream.rabbit import ExchangeType, QueueType, RabbitBroker, RabbitExchange
from faststream.rabbit.schemas.queue import QuorumQueueArgs, RabbitQueue

from snippets.messaging.rabbit_broker import Outgoing, PublishError, publish_confirmed

Incoming = Any  # the message of aio-pika, which FastStream brings along
OWN = "x-failed-"  # how the headers begin that tell a message's history
BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")


def where(error: Exception) -> str:
    """Return an error's types and place, and not its text, which may hold a secret."""
    inner = [error.__cause__] if error.__cause__ else getattr(error, "exceptions", [])
    names = [type(one).__name__ for one in (error, *inner)]
    places = [f" in {one.name}:{one.lineno}" for one in extract_tb(error.__traceback__)]
    return (" < ".join(names) + "".join(places[-1:]))[:200]


def published(message: Incoming, others: dict[str, Any]) -> Outgoing:
    """Return a message as published, but for `app_id`, `user_id` and `others`."""
    same = {one.name: getattr(message, one.name) for one in fields(Outgoing)}
    id_ = message.message_id or uuid4().hex
    ids = {"message_id": id_, "correlation_id": message.correlation_id or id_}
    return Outgoing(**same | ids | others)


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
            return all(map(self.retries, error.exceptions))
        return isinstance(error, self.retry_on) and not isinstance(error, RejectMessage)


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
        return self._queue(name, then, {"x-message-ttl": limit}, "")

    def dead(self) -> RabbitQueue:
        """Return the dead-letter queue."""
        return RabbitQueue(f"{self.name}.dead", QueueType.QUORUM)

    def exchange(self, suffix: str) -> RabbitExchange:
        """Return an exchange to one queue, which leaves the routing key as it is."""
        return RabbitExchange(f"{self.name}.{suffix}", type=ExchangeType.FANOUT)

    def attempt(self, exchange: str) -> int | None:
        """Return which attempt begins with this exchange; None if it is another's."""
        found = re.fullmatch(r"(.*)\.(?:replay|attempt\.([0-9]+))", exchange)
        return int(found[2] or 1) if found and found[1] == self.name else None

    def copy(self, message: Incoming, error: Exception, keep: str = "") -> Outgoing:
        """Return what to publish instead of a message; `keep` is why it is dead."""
        own = self.attempt(message.exchange)
        attempt, forged = own or 1, BROKERS if own else (*BROKERS, OWN)
        headers = {k: v for k, v in message.headers.items() if not k.startswith(forged)}
        reason = keep or ("attempts" if self.policy.retries(error) else "error")
        wait = self.policy.delays[attempt - 1 : attempt] if reason == "attempts" else ()
        first = {OWN + "exchange": message.exchange, OWN + "first-error": where(error)}
        last = {OWN + "attempts": attempt, OWN + "last-error": where(error)}
        others = {
            "exchange": self.exchange(f"retry.{attempt}" if wait else "dead"),
            "headers": first | headers | last | {OWN + "reason": reason},
            "expiration": self.policy.uniform(wait[0] / 2, *wait) if wait else None,
        }
        return published(message, others)

    def _queue(self, name: str, to: str, by: QuorumQueueArgs, key: str) -> RabbitQueue:
        arguments: QuorumQueueArgs = {
            "x-dead-letter-exchange": self.exchange(to).name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            **by,
        }
        return RabbitQueue(name, QueueType.QUORUM, arguments=arguments, routing_key=key)


async def declare_topology(broker: RabbitBroker, topology: Topology) -> None:
    """Declare all queues and exchanges; call it after `connect` and before `start`."""
    steps = range(1, len(topology.policy.delays) + 1)
    queues = {topology.retry(one): [f"retry.{one}"] for one in steps}
    queues[topology.dead()] = ["dead"]
    queues[topology.work()] = ["replay", *(f"attempt.{one + 1}" for one in steps)]
    for queue, exchanges in queues.items():
        declared = await broker.declare_queue(queue)
        for name in exchanges:
            await declared.bind(await broker.declare_exchange(topology.exchange(name)))


def set_aside(broker: RabbitBroker, topology: Topology) -> ExceptionMiddleware:
    """Return the middleware of a `RabbitRouter` whose subscriber is on the work queue.

    A message whose handler raises is acknowledged once its copy is confirmed, else put
    back. `RejectMessage`, and what cannot be decoded, go to the dead-letter queue.
    """

    async def handle(error: Exception, message: Annotated[Incoming, Context()]) -> None:
        raw, keeps = getattr(message, "raw_message", message), ["error", "unconfirmed"]
        with suppress(Exception):  # it is raised once more if it cannot be decoded
            await message.decode()
            keeps[0] = ""
        too_long = repr(message.headers)[50_000:]  # for a copy to fit into one frame
        for keep in () if too_long else keeps:
            with suppress(PublishError):
                return await publish_confirmed(broker, topology.copy(raw, error, keep))
        raise RejectMessage if too_long else NackMessage  # RabbitMQ moves it as it is

    return ExceptionMiddleware({RejectMessage: handle, Exception: handle})
