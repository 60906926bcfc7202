"""Publish so that a lost message is its publisher's error, and consume within bounds.

`make_broker` returns a FastStream broker with one connection and one channel. A message
that no queue takes raises at its publisher, also with plain `publish`. At most
`prefetch` messages are being handled. After a lost connection, consumers go on by
themselves. `stop` lets running handlers finish; what was not acknowledged by then is
delivered again.

`publish_confirmed` returns when RabbitMQ has taken a message that will survive its
restart, and raises otherwise. It buffers nothing and tries nothing twice. A message
whose confirmation was lost may have been taken, so send it again under the same id.

On the in-memory broker, what a handler raises reaches the publisher as it is.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from faststream import AckPolicy
from faststream.exceptions import SubscriberNotFound
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitMessage

RECONNECT_SECONDS = 1.0
CONTEXT = frozenset({"traceparent", "tracestate", "tenant"})
"""The headers that a message has from the one it follows."""
CLIENT_ERRORS = "aiormq.exceptions"
"""Where FastStream's own client keeps what it raises."""


class PublishError(Exception):
    """RabbitMQ has not confirmed a message."""


class UnroutableError(PublishError):
    """There is no queue that takes the message, so it was not published."""


class UnconfirmedError(PublishError):
    """The message may have been published, or not; nothing will say which."""


def make_broker(
    url: str,
    *,
    prefetch: int = 20,
    connect_timeout: float = 5.0,
    drain: float = 15.0,
    middlewares: Sequence[Any] = (),
) -> RabbitBroker:
    """Return a broker; `start` connects, declares and consumes, `stop` drains.

    `connect_timeout` and `drain` are in seconds. `start` raises `ConnectionError` or
    `TimeoutError` if RabbitMQ does not answer, and says in what a queue that is there
    differs from the one asked for. A message whose handler raises is rejected: without
    a dead-letter exchange, it is gone.
    """
    return RabbitBroker(
        url,
        timeout=connect_timeout,
        reconnect_interval=RECONNECT_SECONDS,
        default_channel=Channel(prefetch_count=prefetch, on_return_raises=True),
        graceful_timeout=drain,
        ack_policy=AckPolicy.REJECT_ON_ERROR,
        middlewares=middlewares,
    )


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A message to publish; who gets it twice knows that by its id."""

    body: bytes
    message_id: str
    routing_key: str
    exchange: RabbitExchange | str = ""
    correlation_id: str | None = None
    content_type: str | None = "application/json"
    type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    expiration: float | None = None
    """How many seconds it may wait in a queue; None is for ever."""

    def following(self, message: RabbitMessage) -> "Outgoing":
        """Return it with the correlation id, trace and tenant of another message."""
        context = {
            one: message.headers[one] for one in CONTEXT & message.headers.keys()
        }
        return replace(
            self,
            correlation_id=self.correlation_id or message.correlation_id,
            headers={**context, **self.headers},
        )


async def publish_confirmed(
    broker: RabbitBroker, message: Outgoing, *, within: float = 5.0
) -> None:
    """Publish a persistent message, and wait until RabbitMQ has it.

    Raises `UnroutableError`, or `UnconfirmedError` when the broker refused it, was not
    there, or did not confirm it `within` so many seconds.
    """
    limit = asyncio.timeout(within)
    try:
        async with limit:
            await broker.publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                message_id=message.message_id,
                correlation_id=message.correlation_id,
                content_type=message.content_type,
                message_type=message.type,
                headers=dict(message.headers),
                expiration=message.expiration,
                persist=True,
                mandatory=True,
            )
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise UnconfirmedError(f"{message.message_id} after {within} s") from error
    except SubscriberNotFound as error:
        raise UnroutableError(message.message_id) from error
    except Exception as error:
        if type(error).__module__ != CLIENT_ERRORS:
            raise
        if getattr(error, "message", None):  # it was returned
            raise UnroutableError(message.message_id) from error
        raise UnconfirmedError(message.message_id) from error
