"""Cache a value under one Redis key that a late writer cannot spoil.

A reader that began before an invalidation cannot restore the old value, in whichever
process it runs: `write` replaces only what `read` saw, and `invalidate` leaves a unique
mark. With a `lease`, one process at a time loads a key and the others wait for it; when
that process dies, its lease ends, and exactly one of the others takes over.

Without a lease, a reader that saw nothing is told from a later one that saw nothing by
time alone. If its load took more than half the shortest life of an entry, the result is
not stored; the other half is for the command to arrive in. So without a lease the
guarantee needs a Redis that evicts no marks and does not stall for that long.

Every command names one key, so all of this holds on a Redis Cluster too.

Source: leases in Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import InvalidResponse

JITTER = 0.1
POLL_SECONDS = 0.05
SHORTEST_SECONDS, LONGEST_SECONDS = 0.001, 100 * 365 * 24 * 3600

_VALUE, _LEASE, _INVALIDATED = b"=", b"?", b"!"
_REPLACE = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class Reading(NamedTuple):
    """What a reader saw, which is all that it may replace."""

    key: str
    seen: bytes
    began: float

    @property
    def payload(self) -> bytes | None:
        """The value's bytes; None says: load it, then `write`."""
        return self.seen[1:] if self.seen.startswith(_VALUE) else None


@dataclass(frozen=True, kw_only=True)
class GuardedEntries:
    """Entries that live `ttl` seconds, or up to a tenth less, so that they part ways.

    `lease` is how many seconds a process may take to load a value before another one
    tries. A reader waits for two leases at most; then it loads the value itself. All
    who use a key must have a lease, or none, for a lease takes the place of a mark.

    `client` is asked at each command, and must not decode responses. What it raises is
    passed on; how long that may take is the client's to bound.
    """

    client: Callable[[], Redis]
    ttl: float
    lease: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    spread: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Refuse times that Redis would refuse, or take for another meaning."""
        for seconds in (self.ttl, self.ttl if self.lease is None else self.lease):
            if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
                message = f"{seconds} s is not a time from a millisecond to a century"
                raise ValueError(message)

    async def read(self, key: str) -> Reading:
        """Return the entry, or the right to write it; one round trip on a hit."""
        began = self.clock()
        reading = _reading(key, await self.client().get(key), began)
        if self.lease is None or reading.payload is not None:
            return reading
        return await self._take(reading, self.lease)

    async def write(self, reading: Reading, payload: bytes | None) -> bool:
        """Store `payload` unless the entry has changed; return whether it had not.

        When it has, `payload` may be out of date. None gives up the right to write: a
        lease ends, and the next reader may load; nobody looks for a change.
        """
        if payload is None:
            if reading.seen.startswith(_LEASE):
                await self._replace(reading, b"", 0)
            return False
        shortest, took = self.ttl * (1 - JITTER), self.clock() - reading.began
        if not reading.seen and took > shortest / 2:  # too late to be stored
            return took < self.ttl and not await self.client().get(reading.key)
        life = self.ttl * (1 - JITTER * self.spread())
        return await self._replace(reading, _VALUE + payload, life)

    async def invalidate(self, key: str) -> None:
        """Remove the entry, and with it the right of all who read it to write."""
        await self.client().set(key, _mark(_INVALIDATED), px=round(self.ttl * 1000))

    async def _take(self, reading: Reading, lease: float) -> Reading:
        mark = _mark(_LEASE)
        while reading.payload is None:
            if self.clock() - reading.began > 2 * lease:
                # Marks may come and go before it writes, so nothing proves nothing.
                return reading if reading.seen else reading._replace(seen=mark)
            if reading.seen.startswith(_LEASE):
                await self.sleep(POLL_SECONDS)
            elif await self._claim(reading, mark, lease):
                return reading._replace(seen=mark)
            found = await self.client().get(reading.key)
            reading = _reading(reading.key, found, reading.began)
        return reading

    async def _claim(self, reading: Reading, mark: bytes, lease: float) -> bool:
        try:
            return await self._replace(reading, mark, lease)
        except asyncio.CancelledError:
            with suppress(Exception):  # it may have been taken
                await self._replace(reading._replace(seen=mark), b"", 0)
            raise

    async def _replace(self, reading: Reading, new: bytes, life: float) -> bool:
        arguments = reading.key, reading.seen, new, round(life * 1000)
        return bool(await self.client().eval(_REPLACE, 1, *arguments))


def _reading(key: str, found: object, began: float) -> Reading:
    if isinstance(found, bytes):
        return Reading(key, found, began)
    if found is None:
        return Reading(key, b"", began)
    if isinstance(found, str):
        raise TypeError("entries are bytes: use a client that does not decode them")
    raise InvalidResponse("this is no value of a key")


def _mark(kind: bytes) -> bytes:
    return kind + secrets.token_hex(16).encode()
