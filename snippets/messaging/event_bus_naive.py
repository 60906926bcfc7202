"""An event bus inside one process, as written first."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from snippets.messaging.events import DomainEvent, EventRegistry

Handler = Callable[[DomainEvent[Any]], Awaitable[None]]


class EventBus:
    """The handlers of this process."""

    def __init__(self, registry: EventRegistry) -> None:
        """Start without handlers."""
        self.registry = registry
        self.handlers: dict[type, list[Handler]] = defaultdict(list)

    def subscribe(self, model: type, handler: Handler) -> None:
        """Add a handler."""
        self.handlers[model].append(handler)

    async def receive(self, body: bytes) -> None:
        """Give an event to its handlers, one after the other."""
        event = self.registry.decode(body)
        for handler in self.handlers[type(event.data)]:
            await handler(event)
