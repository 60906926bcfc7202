"""Read a value through a Redis cache, and never fail or answer worse for it.

A hit has the value and the type of the miss, None included, and no two callers are
given the same object. However many ask for a key at once, it is loaded once per
process, and once in all with a lease. Who asked before an invalidation can neither
restore the old value nor hand it to who asks later. Errors of a load are not kept.

When Redis is gone, slow, or answers nonsense, the value is loaded and returned; one log
record and one call of `on_failure` tell of it, without a key or a value. The client's
own time limits bound the delay, so give it some, as `create_redis` does.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from redis.exceptions import RedisError

from snippets.caching.codec import Codec, CodecError
from snippets.caching.single_flight import SingleFlight

R = TypeVar("R", bound="Reading")
T = TypeVar("T")

# ValueError is a CodecError, or as RecursionError the client's for an answer that is no
# Redis protocol.
FAILURES = (RedisError, OSError, ValueError, RecursionError)

logger = logging.getLogger(__name__)


class Reading(Protocol):
    """What was found under a key, to be handed back to `Entries.write`."""

    @property
    def payload(self) -> bytes | None:
        """The value's bytes, if there is one."""


class Entries(Protocol[R]):
    """Where values are kept: `GuardedEntries`, or the entries of a `CacheManager`."""

    async def read(self, key: str) -> R:
        """Return what is kept, or the right to write."""

    async def write(self, reading: R, payload: bytes | None) -> bool:
        """Store, unless the entry has changed; return whether it had not."""

    async def invalidate(self, key: str) -> None:
        """Forget the entry, and the right of all who read it to write."""


class _Found(NamedTuple, Generic[T]):
    value: T
    payload: bytes | None
    is_current: bool = True


@dataclass(frozen=True, kw_only=True)
class ReadThrough(Generic[T]):
    """Values of one type, `name`d for the log and for the metric.

    `on_failure` is given the name and the step that failed: read, decode, encode or
    write. With `cache_none` off, None is returned but not kept.
    """

    name: str
    codec: Codec[T]
    entries: Entries[Any]
    on_failure: Callable[[str, str], object] | None = None
    cache_none: bool = True
    _flights: SingleFlight[_Found[T]] = field(
        default_factory=SingleFlight, init=False, repr=False
    )

    async def get(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """Return what is kept under `key`, or else what `load` returns.

        A value that cannot be stored is reported and returned to the caller that loaded
        it; it may be bound to that caller, so those who waited load for themselves.
        """
        find = partial(self._find, key, load)
        found, led = await self._flights.run(key, find)
        if not led and not found.is_current:
            # It changed during the flight, perhaps before this caller asked. Another
            # flight begins now, so after it asked.
            found, led = await self._flights.run(key, find)
        if led:
            return found.value
        return (
            await load() if found.payload is None else self.codec.decode(found.payload)
        )

    async def invalidate(self, key: str) -> None:
        """Forget the value, also where it is just being loaded.

        Call it once the change is committed. It raises what the client raises: the old
        value may then be served until its time is over.
        """
        try:
            await self.entries.invalidate(key)
        finally:
            self._flights.forget(key)

    async def _find(self, key: str, load: Callable[[], Awaitable[T]]) -> _Found[T]:
        reading = None
        try:
            reading = await self.entries.read(key)
            if (payload := reading.payload) is not None:
                return _Found(self.codec.decode(payload), payload)
        except FAILURES as error:
            self._report("read" if reading is None else "decode", error)
        payload = kept = None
        is_current = True
        try:
            value = await load()
            payload = self._encode(value)
            kept = payload if self.cache_none or value is not None else None
        finally:
            if reading is not None:
                is_current = await self._write(self.entries.write(reading, kept))
        return _Found(value, payload, is_current)

    def _encode(self, value: T) -> bytes | None:
        try:
            return self.codec.encode(value)
        except CodecError as error:
            self._report("encode", error)
            return None

    async def _write(self, write: Awaitable[bool]) -> bool:
        try:
            return await write
        except FAILURES as error:
            self._report("write", error)
            return True

    def _report(self, step: str, error: Exception) -> None:
        # Not the error's text, which may quote the command, and so the value.
        logger.warning("cache %s of %s: %s", step, self.name, type(error).__name__)
        if self.on_failure is not None:
            self.on_failure(self.name, step)
