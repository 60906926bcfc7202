"""Share one task among all who ask: whoever is cancelled takes the others along."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedTasks(Generic[T]):
    """At most one execution per key."""

    def __init__(self) -> None:
        """Start with no task."""
        self._tasks: dict[str, asyncio.Task[T]] = {}

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the task of this key, and start it if there is none."""
        if key not in self._tasks:
            task = asyncio.create_task(work())
            task.add_done_callback(lambda _: self._tasks.pop(key))
            self._tasks[key] = task
        return await self._tasks[key]
