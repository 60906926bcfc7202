"""Keep the number of open calls fresh for all the screens that show it."""

import asyncio
import logging

from fakeredis import FakeAsyncRedis

from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.stale_refresh import StaleRefresh


async def main() -> None:
    """Let a minute pass with the database there, and another one without."""
    logging.disable()  # the example prints the failures instead
    redis = FakeAsyncRedis()
    now = 0.0
    in_database: list[int] = [12, 15]
    failures: list[str] = []
    counts = 0

    async def count_calls() -> int:
        nonlocal counts
        counts += 1
        if not in_database:
            raise TimeoutError
        return in_database.pop(0)

    open_calls = StaleRefresh(
        name="open calls",
        kind=int,
        entries=GuardedEntries(client=lambda: redis, ttl=60),
        lease=5,
        on_failure=lambda name, step: failures.append(f"{step} of {name}"),
        clock=lambda: now,
    )

    async with open_calls:
        print("at 0 s:", await open_calls.get("acme", count_calls), "calls")
        # > at 0 s: 12 calls
        now = 47
        print("at 47 s:", await open_calls.get("acme", count_calls), "calls")
        # > at 47 s: 12 calls
        now = 48
        screens = [open_calls.get("acme", count_calls) for _ in range(200)]
        shown = await asyncio.gather(*screens)
        print("at 48 s:", shown.count(12), "screens show 12 calls")
        # > at 48 s: 200 screens show 12 calls
    print("when the refresh has ended, the database was asked", counts, "times")
    # > when the refresh has ended, the database was asked 2 times

    async with open_calls:
        now = 96
        print("at 96 s:", await open_calls.get("acme", count_calls), "calls")
        # > at 96 s: 15 calls
    print("failed:", failures)
    # > failed: ['refresh of open calls']
    print("then still:", await open_calls.get("acme", count_calls), "calls")
    # > then still: 15 calls
    logging.disable(logging.NOTSET)
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
