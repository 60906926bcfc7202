"""Let callers who want the same thing at the same moment share one execution.

The first caller leads: it runs the work in its own task, with its own session and
context, and the others wait for its result. Cancelling a waiter touches nobody else.
When the leader is cancelled, exactly one waiter takes over. When the leader fails, its
own caller is told, and one waiter tries again; when that fails too, all who wait are
given the second error. A resource that is down is thus tried twice, and not once per
waiter.

Callers in different event loops, threads or processes do not wait for one another.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Flight(deque[asyncio.Future[tuple[T] | None]], Generic[T]):
    """Those who wait. A waiter is given the result in a tuple, or None: lead now."""

    heir: asyncio.Future[tuple[T] | None] | None = None
    has_failed = False

    def land(self, result: T) -> None:
        for waiter in self:
            if not waiter.done():
                waiter.set_result((result,))

    def crash(self, error: BaseException) -> None:
        for waiter in self:
            if not waiter.done():
                waiter.set_exception(error)

    def hand_over(self) -> bool:
        """Let the first who still waits lead; return whether there was one."""
        while self:
            waiter = self.popleft()
            if not waiter.done():
                self.heir = waiter
                waiter.set_result(None)
                return True
        return False


class SingleFlight(Generic[T]):
    """At most one execution per key: `result, led = await flights.run(key, work)`."""

    def __init__(self) -> None:
        """Start with no flight; needs no event loop."""
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def run(
        self, key: Hashable, work: Callable[[], Awaitable[T]]
    ) -> tuple[T, bool]:
        """Return the result of `work`, and whether this caller led.

        All callers are given the same object, so a caller that did not lead must not
        change it. Raises what `work` raises.
        """
        slot = asyncio.get_running_loop(), key
        flight = self._flights.get(slot)
        if flight is None:
            flight = self._flights[slot] = _Flight()
        elif landed := await self._wait(slot, flight):
            return landed[0], False
        try:
            result = await work()
        except BaseException as error:
            is_failure = isinstance(error, Exception)
            if is_failure and flight.has_failed:
                self._remove(slot, flight)
                flight.crash(error)
            else:
                flight.has_failed |= is_failure
                self._hand_over(slot, flight)
            raise
        self._remove(slot, flight)
        if flight:
            flight.land(result)
        return result, True

    def forget(self, key: Hashable) -> None:
        """Make the next caller lead anew, though an execution may still be running.

        Those who wait for that execution are still given its result.
        """
        self._flights.pop((asyncio.get_running_loop(), key), None)

    async def _wait(self, slot: Hashable, flight: _Flight[T]) -> tuple[T] | None:
        waiter: asyncio.Future[tuple[T] | None]
        waiter = asyncio.get_running_loop().create_future()
        flight.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter is flight.heir:  # cancelled before it could begin to lead
                self._hand_over(slot, flight)
            raise

    def _hand_over(self, slot: Hashable, flight: _Flight[T]) -> None:
        if not flight.hand_over():
            self._remove(slot, flight)

    def _remove(self, slot: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(slot) is flight:
            del self._flights[slot]
