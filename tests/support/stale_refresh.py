"""Users whose refreshes a test holds, counts and dates."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel

from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.stale_refresh import StaleRefresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

TTL = 300.0
DUE = TTL * 0.8
LEASE = 60.0
EMAIL = "ada@example.com"


class User(BaseModel):
    """Somebody with a telephone."""

    name: str
    extensions: list[str] = []


ADA = User(name=EMAIL, extensions=["1001"])
ADA_MARRIED = User(name="Ada Lovelace", extensions=["1001"])

Users = StaleRefresh[User | None]


@dataclass
class Load:
    """A load that counts, and waits if it is told to."""

    results: list[User | Exception | None]
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0
    runs: int = 0

    @classmethod
    def held(cls, *results: User | Exception | None) -> Load:
        """Return a load that waits for its gate."""
        return cls(list(results))

    @classmethod
    def of(cls, *results: User | Exception | None) -> Load:
        """Return a load that does not wait."""
        load = cls(list(results))
        load.gate.set()
        return load

    async def __call__(self) -> User | None:
        """Return or raise the next result, the last one for ever."""
        result = self.results[min(self.runs, len(self.results) - 1)]
        self.runs += 1
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(result, Exception):
            raise result
        return result


@dataclass
class Service:
    """What all processes of a service share: its clock, and its metric."""

    now: float = 1000.0
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    limits: list[asyncio.Timeout] = field(default_factory=list)

    def limit(self, lease: float) -> asyncio.Timeout:
        """Return a limit that holds until the test ends it, however slow all is."""
        assert lease == LEASE
        self.limits.append(asyncio.timeout(None))
        return self.limits[-1]

    def end_leases(self) -> None:
        """End the time of every refresh that runs."""
        for limit in self.limits:
            limit.reschedule(asyncio.get_running_loop().time())

    def users(
        self,
        redis: Redis,
        *,
        lease: float = LEASE,
        refresh_at: float = 0.8,
        wait_at: float = 1.0,
        limit: Callable[[float], asyncio.Timeout] = asyncio.timeout,
    ) -> Users:
        """Return users on a client, as one more process would have them."""
        return StaleRefresh[User | None](
            name="users",
            kind=User | None,
            entries=GuardedEntries(client=lambda: redis, ttl=TTL),
            lease=lease,
            refresh_at=refresh_at,
            wait_at=wait_at,
            on_failure=lambda name, step: self.told.update([(name, step)]),
            clock=lambda: self.now,
            limit=limit,
        )
