"""Refresh a cached value in the background before it ends, so that readers do not wait.

Who reads a value after `refresh_at` of its TTL is given it at once, and it is loaded
anew beside the reader: once, however many readers and processes there are. Until that
is stored, or the TTL is over, the old value is served, even if the load fails. What was
invalidated after its refresh began is not stored.

A refresh is claimed on the entry's own key: one command puts off for everybody, by a
`lease`, the time at which one is due. After its lease it is cancelled. So when it
fails, or dies with its process, the next reader after the lease begins another. Clocks
that differ move a refresh by as much; the TTL is Redis's own, and no claim renews it.

`load` runs in a copy of the context of the reader that found the refresh due, so it
sees that reader's tenant. It outlives the request, so it must open its own session, and
cancelling the reader does not cancel it. Misses and outages are as in `ReadThrough`.

Source: stale-while-revalidate and stale-if-error in RFC 5861.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from types import GenericAlias, UnionType
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import Field

from snippets.caching.codec import Codec
from snippets.caching.guarded_entry import JITTER, GuardedEntries, Reading
from snippets.caching.read_through import ReadThrough

T = TypeVar("T")

# When a refresh is due, from when on readers wait for it, and what is this value's own.
_Stamp = Annotated[str, Field(pattern="^[0-9]{13}:[0-9]{13}:[0-9a-f]{16}$")]
_CLAIM = """
local at = string.find(redis.call('GET', KEYS[1]) or '', ARGV[1], 1, true)
if not at then return false end
redis.call('SETRANGE', KEYS[1], at - 1, ARGV[2])
return redis.call('GET', KEYS[1])
"""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class StaleRefresh(Generic[T]):
    """Values of one type, `kind`, `name`d for the log and for the metric.

    A refresh may take `lease` seconds. `refresh_at` and `wait_at` are shares of the TTL
    of `entries`. From `wait_at` on, a reader waits for a refresh that is due or running
    in its process, and is given the old value only if that brings no other. Use it with
    `async with`, inside that of the Redis client: at the end no refresh begins any
    more, and those that run are waited for, or cancelled when their lease is over.

    `on_failure` is given the name and the step that failed: refresh, or as in
    `ReadThrough`. `clock` has the seconds of all processes; `limit` ends a refresh.
    """

    name: str
    kind: type[T] | UnionType
    entries: GuardedEntries
    lease: float
    refresh_at: float = 0.8
    wait_at: float = 1.0
    on_failure: Callable[[str, str], object] | None = None
    clock: Callable[[], float] = time.time
    limit: Callable[[float], asyncio.Timeout] = asyncio.timeout
    _values: ReadThrough[tuple[str, T]] = field(init=False, repr=False)
    _tasks: dict[str, asyncio.Task[bytes | None]] = field(init=False, repr=False)
    _is_closed: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse shares that not every entry reaches, and a lease that is none."""
        due, late, ttl = self.refresh_at, self.wait_at, self.entries.ttl
        if not (0 < due < 1 - JITTER and due <= late <= 1 and 0 < self.lease <= ttl):
            raise ValueError(
                f"refresh_at < {1 - JITTER}, <= wait_at <= 1; lease <= ttl"
            )
        stamped: Any = GenericAlias(tuple, (_Stamp, self.kind))
        codec, told = Codec[tuple[str, T]](stamped), self.on_failure
        self._values = ReadThrough(
            name=self.name, codec=codec, entries=self.entries, on_failure=told
        )
        self._tasks = {}

    async def __aenter__(self) -> Self:
        """Let refreshes begin."""
        self._is_closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let none begin, and wait for those that run; cancelling this cancels them."""
        self._is_closed = True
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def get(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """Return what is kept under `key`, or else what `load` returns or raises."""
        stamp, value = await self._values.get(key, lambda: self._stamped(load))
        now = _moment(self.clock())
        due, late, _ = stamp.split(":")
        if now >= due and key not in self._tasks and not self._is_closed:
            task = asyncio.create_task(self._refresh(key, stamp, load))
            self._tasks[key] = task
            task.add_done_callback(partial(self._end, key))
        if now < late or (running := self._tasks.get(key)) is None:
            return value
        await asyncio.wait([running])
        failed = running.cancelled() or running.exception()
        payload = None if failed else running.result()
        return value if payload is None else self._values.codec.decode(payload)[1]

    async def invalidate(self, key: str) -> None:
        """Forget the value, also where it is being loaded, as `ReadThrough` does."""
        await self._values.invalidate(key)

    async def _stamped(self, load: Callable[[], Awaitable[T]]) -> tuple[str, T]:
        value = await load()
        now, ttl = self.clock(), self.entries.ttl
        due, late = (_moment(now + s * ttl) for s in (self.refresh_at, self.wait_at))
        return f"{due}:{late}:{secrets.token_hex(8)}", value

    async def _refresh(
        self, key: str, seen: str, load: Callable[[], Awaitable[T]]
    ) -> bytes | None:
        """Return the new value's bytes; None if it was not for this process to load."""
        due = _moment(self.clock() + self.lease)
        async with self.limit(self.lease):
            entry = await self.entries.client().eval(_CLAIM, 1, key, seen, due)
            if entry is None:
                return None
            payload = self._values.codec.encode(await self._stamped(load))
            await self.entries.write(Reading(key, entry, began=0), payload)
            return payload

    def _end(self, key: str, task: asyncio.Task[bytes | None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()):
            # Not the error's text, which may quote the value.
            logger.warning("refresh of %s: %s", self.name, type(error).__name__)
            if self.on_failure is not None:
                self.on_failure(self.name, "refresh")


def _moment(seconds: float) -> str:
    return f"{round(seconds * 1000):013}"  # one width: to compare, and to replace
