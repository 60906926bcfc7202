"""Look at what was given up, and hand it to its own consumer again, message by message.

A replayed message has its id, body, routing key and headers, and begins at its first
attempt. It goes to the queue in which it failed and to no other, so whoever handled it
well does not get it twice. It leaves the dead-letter queue once RabbitMQ has confirmed
its copy; if the process dies in between, both are there, under one id.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from faststream.rabbit import RabbitBroker

from snippets.messaging.dead_letters import BROKERS, OWN, Incoming, Topology
from snippets.messaging.rabbit_broker import Outgoing, publish_confirmed


@dataclass(frozen=True)
class DeadLetter:
    """A message that was given up, and why; both errors are None if it never raised."""

    message_id: str | None
    exchange: str
    routing_key: str
    attempts: int
    reason: str
    first_error: str | None
    last_error: str | None
    headers: Mapping[str, Any]
    body: bytes


def read(topology: Topology, message: Incoming) -> DeadLetter:
    """Return what a message of the dead-letter queue says of itself.

    The reason is `attempts`, `error`, or one of RabbitMQ's, such as `delivery_limit`.
    """
    death = next(iter(message.headers.get("x-death", ())), None)
    history = {k: v for k, v in message.headers.items() if k.startswith(OWN)}
    if death is not None:  # RabbitMQ has moved it, in the middle of an attempt
        source = death["exchange"]
        if not source.startswith((f"{topology.name}.attempt.", f"{topology.name}.re")):
            history = {OWN + "exchange": source}  # else a publisher has written it
        history[OWN + "attempts"] = history.get(OWN + "attempts", 0) + 1
        history[OWN + "reason"] = death["reason"]
    return DeadLetter(
        message_id=message.message_id,
        exchange=history[OWN + "exchange"],
        routing_key=message.routing_key,
        attempts=history[OWN + "attempts"],
        reason=history[OWN + "reason"],
        first_error=history.get(OWN + "first-error"),
        last_error=history.get(OWN + "last-error"),
        headers={
            name: value
            for name, value in message.headers.items()
            if not name.startswith((OWN, *BROKERS))
        },
        body=message.body,
    )


async def replay(
    broker: RabbitBroker,
    topology: Topology,
    *,
    limit: int,
    wanted: Callable[[DeadLetter], bool] = lambda _: True,
) -> int:
    """Replay at most `limit` messages in the queue's order; return how many it were.

    Those that are not `wanted` are held until the end, and then put back behind the
    others. What fails again meanwhile is left for the next time. Raises `PublishError`
    when a copy is not confirmed: that message and all later ones stay.
    """
    queue = await broker.declare_queue(topology.dead())
    held, replayed = [], 0
    try:
        for _ in range(await depth(broker, topology)):
            message = await queue.get(fail=False) if replayed < limit else None
            if message is None:
                break
            held.append(message)
            letter = read(topology, message)
            if wanted(letter):
                await publish_confirmed(broker, _again(topology, message, letter))
                await held.pop().ack()
                replayed += 1
    finally:
        for message in held:
            await message.nack(requeue=True)
    return replayed


async def depth(broker: RabbitBroker, topology: Topology) -> int:
    """Return how many messages wait in the dead-letter queue, for a metric."""
    queue = await broker.declare_queue(topology.dead())
    return (await queue.declare()).message_count or 0


async def purge(broker: RabbitBroker, topology: Topology) -> int:
    """Delete all messages of the dead-letter queue; return how many it were."""
    queue = await broker.declare_queue(topology.dead())
    return (await queue.purge()).message_count or 0


def _again(topology: Topology, message: Incoming, letter: DeadLetter) -> Outgoing:
    return Outgoing(
        body=message.body,
        message_id=message.message_id or uuid4().hex,
        exchange=topology.exchange("replay"),
        routing_key=message.routing_key,
        correlation_id=message.correlation_id,
        content_type=message.content_type,
        type=message.type,
        headers={**letter.headers, OWN + "exchange": letter.exchange},
    )
