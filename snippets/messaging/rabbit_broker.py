"""Publish so that a lost message is its publisher's error, and consume within bounds.

`make_broker` returns a FastStream broker with one connection and one channel. A message
that no queue takes raises at its publisher, also with plain `publish`. Each subscriber
handles at most `prefetch` messages at once. After a lost connection, consumers go on by
themselves. `stop` lets running handlers finish; what was not acknowledged by then is
delivered again. So is what is being handled when somebody publishes to an exchange that
does not exist, for RabbitMQ closes the channel then. No `reply_to` is replied to.

`publish_confirmed` returns when RabbitMQ has taken a message that will survive its
restart, and raises otherwise. It buffers nothing and tries nothing twice. A message
whose confirmation was lost may have been taken, so send it again under the same id.
On the in-memory broker, what a handler raises reaches the publisher as it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

from faststream import AckPolicy, BaseMiddleware
from faststream.exceptions import IncorrectState, SubscriberNotFound
from faststream.message import StreamMessage
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitMessage

RECONNECT_SECONDS = 1.0
CONTEXT, LONGEST = frozenset({"traceparent", "tracestate", "tenant"}), 512
"""The headers, of so many characters at most, that go on to what follows a message."""
CLIENT_ERRORS = "aiormq.exceptions"  # of the client that FastStream uses


class PublishError(Exception):
    """RabbitMQ has not confirmed a message."""


class UnroutableError(PublishError):
    """There is no queue that takes the message, so it was not published."""


class UnconfirmedError(PublishError):
    """The message may have been published, or not; nothing will say which."""


class HandlerCancelledError(Exception):
    """A handler was cancelled by something that it awaited, not by its consumer."""


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
    `TimeoutError` if RabbitMQ does not answer, and says how an existing queue differs.
    Without a dead-letter exchange, a message whose handler raises is gone.
    """
    return RabbitBroker(
        url,
        timeout=connect_timeout,
        reconnect_interval=RECONNECT_SECONDS,
        default_channel=Channel(prefetch_count=prefetch, on_return_raises=True),
        graceful_timeout=drain,
        ack_policy=AckPolicy.REJECT_ON_ERROR,
        middlewares=[_Answers, *middlewares],
    )


class _Answers(BaseMiddleware):
    """Answers RabbitMQ also when a handler cancels itself, and never a `reply_to`."""

    async def consume_scope(
        self, call_next: Callable[[Any], Awaitable[object]], msg: StreamMessage[Any]
    ) -> object:
        msg.reply_to = ""  # for FastStream would publish to any queue that it names
        try:
            return await call_next(msg)
        except (asyncio.CancelledError, BaseExceptionGroup) as error:
            task = asyncio.current_task()
            if isinstance(error, Exception) or (task and task.cancelling()):
                raise
            raise HandlerCancelledError from error


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A message to publish; who gets it twice knows that by its id."""

    body: bytes
    message_id: str
    routing_key: str
    exchange: RabbitExchange | str = ""
    correlation_id: str | None = None
    content_type: str | None = "application/json"
    content_encoding: str | None = None
    type: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    timestamp: datetime | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    expiration: float | None = None
    """How many seconds it may wait in a queue; None is for ever."""

    def following(self, message: RabbitMessage) -> "Outgoing":
        """Return it with the correlation id, trace and tenant of another message."""
        short = {k: v for k, v in message.headers.items() if len(str(v)) <= LONGEST}
        context = {k: short[k] for k in CONTEXT & short.keys()}
        id_ = self.correlation_id or message.correlation_id
        return replace(self, correlation_id=id_, headers={**context, **self.headers})


class _Turn(asyncio.Lock):
    task: asyncio.Task[Any] | None = None  # whose turn it is


async def publish_confirmed(
    broker: RabbitBroker, message: Outgoing, *, within: float = 5.0
) -> None:
    """Publish a persistent message, and wait until RabbitMQ has it.

    Raises `UnroutableError`, or `UnconfirmedError` when the broker refused it, was not
    there, or did not confirm it `within` so many seconds.
    """
    options = vars(message) | {"persist": True, "mandatory": True}
    options |= {"headers": dict(message.headers), "message_type": options.pop("type")}
    # One task at a time publishes an id: by that the client knows what was returned.
    turns = vars(broker).setdefault("turns", WeakValueDictionary())
    turn: _Turn = turns.setdefault(message.message_id, _Turn())
    task, limit = asyncio.current_task(), asyncio.timeout(within)
    in_turn = turn.locked() and turn.task is task  # in memory, a handler may publish
    try:
        async with limit, nullcontext() if in_turn else turn:
            turn.task = task
            await broker.publish(options.pop("body"), **options)
    except Exception as error:
        if limit.expired():
            raise UnconfirmedError(f"{message.message_id} after {within} s") from error
        is_known = isinstance(error, SubscriberNotFound | IncorrectState)
        if not is_known and type(error).__module__ != CLIENT_ERRORS:
            raise
        if isinstance(error, SubscriberNotFound) or getattr(error, "message", None):
            raise UnroutableError(message.message_id) from error  # it was returned
        raise UnconfirmedError(message.message_id) from error
