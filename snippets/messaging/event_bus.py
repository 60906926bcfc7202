"""Give each event to all who handle it in this process, whatever one of them does.

A handler that fails stops no other; the errors are raised together when all are done.
What cannot be read meets a declared policy, so that no message is delivered for ever.
The caller decides what a failure means; if the message comes again, every handler runs
again, also those that succeeded.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from faststream.exceptions import RejectMessage

from snippets.messaging.events import (
    DomainEvent,
    EventError,
    EventRegistry,
    UnknownEventError,
)

D = TypeVar("D")
Handler = Callable[[DomainEvent[D]], Awaitable[object]]
Policy = Literal["park", "ignore", "fail"]


class EventBus:
    """The handlers of this process, by the class of the data."""

    def __init__(self, registry: EventRegistry, unknown: Policy = "park") -> None:
        """Read with `registry`; what it does not know is parked, unless you say so."""
        self._registry = registry
        self._unknown = unknown
        self._handlers: dict[type, list[Handler[Any]]] = defaultdict(list)

    def on(self, model: type[D]) -> "Callable[[Handler[D]], Handler[D]]":
        """Have a function called with each event that has such data."""

        def on(handler: "Handler[D]") -> "Handler[D]":
            self._handlers[model].append(handler)
            return handler

        return on

    async def dispatch(self, event: DomainEvent[Any]) -> None:
        """Run all handlers of an event at once, and wait for all of them.

        Raises an `ExceptionGroup` of what they raised. An event that nobody handles is
        no error.
        """

        async def run(handler: "Handler[Any]") -> None:
            await handler(event)  # here, for it may raise before it can be awaited

        handlers = map(run, self._handlers.get(type(event.data), ()))
        results = await asyncio.gather(*handlers, return_exceptions=True)
        if errors := [one for one in results if isinstance(one, BaseException)]:
            raise BaseExceptionGroup(f"{event.event_type} was not handled", errors)

    async def receive(self, body: bytes) -> DomainEvent[Any] | None:
        """Decode and dispatch the body of a message.

        A body that is no event is parked: `RejectMessage` has the broker move it to the
        queue's dead-letter exchange, at once. So is an unknown type or a newer version,
        unless the policy is `ignore`, which returns None, or `fail`, which raises
        `UnknownEventError`, for a consumer that may try again later.
        """
        try:
            event = self._registry.decode(body)
        except EventError as error:
            policy = self._unknown if isinstance(error, UnknownEventError) else "park"
            if policy == "ignore":
                return None
            if policy == "fail":
                raise
            raise RejectMessage from error
        await self.dispatch(event)
        return event
