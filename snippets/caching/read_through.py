"""Read a value through a Redis cache, and never fail or answer worse for it.

A hit has the value and the type of the miss, None included, and no two callers are
given the same object. However many ask for a key at once, it is loaded once per
process, and once in all with a lease. Who asked before an invalidation cannot restore
the old value, and each caller is given what was looked up, loaded or found unchanged
after it asked. So in an outage who asks during a load waits for a second one. Errors of
a load are not kept.

When Redis is gone, slow, or answers nonsense, the value is loaded and returned; a log
record and a call of `on_failure` tell of it, without key or value. The client's time
limits bound each wait, not their sum: give it some, as `create_redis` does.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
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
        """Store, unless the entry has changed; return true only if it had not."""

    async def invalidate(self, key: str) -> None:
        """Forget the entry, and the right of all who read it to write."""


class _Found(NamedTuple, Generic[T]):
    value: T
    payload: bytes | None
    turn: int  # by which it was right: whoever asked later must look again


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
    _turns: Iterator[int] = field(default_factory=count, init=False, repr=False)

    async def get(self, key: str, load: Callable[[], Awaitable[T]]) -> T:
        """Return what is kept under `key`, or else what `load` returns.

        A value that cannot be stored is reported, and returned only to who loaded it:
        it may be bound to that caller, so who waited loads for itself.
        """
        asked = next(self._turns)
        find = partial(self._find, key, load)
        found, led = await self._flights.run(key, find)
        if not led and found.payload is not None and found.turn < asked:
            # Another flight begins now, so after this caller asked.
            found, led = await self._flights.run(key, find)
        if led:
            return found.value
        kept = found.payload
        return await load() if kept is None else self.codec.decode(kept)

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
        reading, turn = None, next(self._turns)
        try:
            reading = await self.entries.read(key)
            if (payload := reading.payload) is not None:
                return _Found(self.codec.decode(payload), payload, turn)
        except FAILURES as error:
            self._report("read" if reading is None else "decode", error)
        payload, kept, turn = None, None, next(self._turns)
        try:
            value = await load()
            payload = self._encode(value)
            kept = payload if self.cache_none or value is not None else None
        finally:
            loaded = next(self._turns)
            if reading is not None and await self._write(reading, kept):
                turn = loaded
        return _Found(value, payload, turn)

    def _encode(self, value: T) -> bytes | None:
        try:
            return self.codec.encode(value)
        except CodecError as error:
            self._report("encode", error)
            return None

    async def _write(self, reading: Reading, kept: bytes | None) -> bool:
        try:
            return await self.entries.write(reading, kept)
        except FAILURES as error:
            self._report("write", error)
            return False

    def _report(self, step: str, error: Exception) -> None:
        # Not the error's text, which may quote the command, and so the value.
        logger.warning("cache %s of %s: %s", step, self.name, type(error).__name__)
        try:
            if self.on_failure is not None:
                self.on_failure(self.name, step)
        except Exception:  # no reason to fail the caller
            logger.exception("on_failure of %s", self.name)
