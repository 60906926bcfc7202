"""Let a tenant start ten calls in a minute, and a conference only as a whole."""

import asyncio
import logging

from fakeredis import FakeAsyncRedis, FakeServer

from snippets.middleware.rate_limiter import RateLimiter


async def main() -> None:
    """Start calls until there are too many, and then lose Redis."""
    logging.getLogger().addHandler(logging.NullHandler())  # instead of a real log
    server = FakeServer()
    redis = FakeAsyncRedis(server=server)
    lost: list[str] = []
    calls = RateLimiter(
        name="calls",
        limit=10,
        window=60,
        client=lambda: redis,
        on_outage="closed",
        on_failure=lost.append,
    )

    verdicts = await asyncio.gather(*(calls.check("acme") for _ in range(7)))
    print("started:", sum(verdict.allowed for verdict in verdicts))
    # > started: 7

    conference = await calls.check("acme", cost=4)
    print("conference of four:", conference.allowed, "left:", conference.remaining)
    # > conference of four: False left: 3
    conference = await calls.check("acme", cost=3)
    print("conference of three:", conference.allowed, "left:", conference.remaining)
    # > conference of three: True left: 0
    print("another tenant:", (await calls.check("globex")).allowed)
    # > another tenant: True

    server.connected = False
    print("without Redis:", (await calls.check("globex")).allowed)
    # > without Redis: False
    print("available:", calls.is_available, "not counted:", lost)
    # > available: False not counted: ['calls']
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
