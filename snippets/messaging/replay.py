"""Look at what was given up, and hand it to its own consumer again, message by message.

A replayed message has its id, body, routing key and headers, and begins at its first
attempt. It goes to the queue in which it failed and to no other, so whoever handled it
well does not get it twice. It leaves the dead-letter queue once RabbitMQ has confirmed
its copy; if the process dies in between, both are there, under one id.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from faststream.rabbit import RabbitBroker

from snippets.messaging.dead_letters import (
    BROKERS,
    OWN,
    Incoming,
    Topology,
    published,
)
from snippets.messaging.rabbit_broker import publish_confirmed

LOOKS, LOOK_SECONDS = 100, 0.05
"""How often and how soon again a replay looks for what it has put back."""


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

    The reason is `attempts`, `error`, `unconfirmed` if it could not be put to wait, one
    of RabbitMQ's, such as `delivery_limit`, or `unknown` if somebody else has published
    it there.
    """
    deaths = message.headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths else None
    history = {k: v for k, v in message.headers.items() if k.startswith(OWN)}
    attempts = history.get(OWN + "attempts")
    attempts = attempts if isinstance(attempts, int) else 0
    if isinstance(death, dict):  # RabbitMQ has moved it, in the middle of an attempt
        source = str(death.get("exchange", ""))
        if topology.attempt(source) is None:
            history = {OWN + "exchange": source}  # else a publisher has written it
            attempts = 0
        history[OWN + "reason"] = death.get("reason")
        attempts += 1
    said = {name: str(value) for name, value in history.items() if value is not None}
    return DeadLetter(
        message_id=message.message_id,
        exchange=said.get(OWN + "exchange", ""),
        routing_key=message.routing_key or "",
        attempts=attempts,
        reason=said.get(OWN + "reason", "unknown"),
        first_error=said.get(OWN + "first-error"),
        last_error=said.get(OWN + "last-error"),
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

    Those that are not `wanted` are held in memory until the end, and then put back
    behind the others, each with one more in its `x-delivery-count`. What fails again
    meanwhile is left for the next time. Raises `PublishError` when a copy is not
    confirmed: that message and all later ones stay.
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
                others = {
                    "exchange": topology.exchange("replay"),
                    "headers": {**letter.headers, OWN + "exchange": letter.exchange},
                    "expiration": None,
                }
                await publish_confirmed(broker, published(message, others))
                await held.pop().ack()
                replayed += 1
    finally:
        with suppress(Exception):  # if the connection is lost, RabbitMQ does it
            for message in held:
                await message.nack(requeue=True)
    for _ in range(LOOKS):  # RabbitMQ does not say when they are there again
        if not held or await depth(broker, topology) >= len(held):
            break
        await asyncio.sleep(LOOK_SECONDS)
    return replayed


async def depth(broker: RabbitBroker, topology: Topology) -> int:
    """Return how many messages wait in the dead-letter queue, for a metric."""
    queue = await broker.declare_queue(topology.dead())
    return (await queue.declare()).message_count or 0


async def purge(broker: RabbitBroker, topology: Topology) -> int:
    """Delete all messages of the dead-letter queue; return how many it were."""
    queue = await broker.declare_queue(topology.dead())
    return (await queue.purge()).message_count or 0
