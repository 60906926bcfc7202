"""What a check costs, beside one INCR and EXPIRE in a script, and the library limits.

All ways share one kind of client, on Redis, with the limit far away. In the groups of
32, each check is for another key. The floor counts in a fixed window, so twice its
limit may pass at a border; the library's fixed and counted windows are no more exact.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import cycle

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    SlidingWindowCounterRateLimiter,
)
from limits.aio.strategies import (
    RateLimiter as Strategy,
)
from redis.asyncio import Redis

from catalogue.bench import Case, compare
from snippets.caching.redis_client import create_redis
from snippets.middleware.rate_limiter import RateLimiter
from tests.support.servers import address

NAME = "bench-rate-limit"
AT_ONCE = 32
KEYS = 100
LIMIT = 10_000
WINDOW = 60
FLOOR = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return count <= tonumber(ARGV[1]) and 1 or 0
"""
Check = Callable[[str], Awaitable[bool]]


async def floor(redis: Redis) -> Check:
    """Count in a fixed window: the least that can be written by hand."""
    digest = await redis.script_load(FLOOR)

    async def check(key: str) -> bool:
        return bool(
            await redis.evalsha(digest, 1, f"{NAME}:floor:{key}", LIMIT, WINDOW)
        )

    return check


def ours(redis: Redis) -> Check:
    """The pattern."""
    limiter = RateLimiter(
        name=NAME,
        limit=LIMIT,
        window=WINDOW,
        client=lambda: redis,
        on_outage="closed",
    )

    async def check(key: str) -> bool:
        return (await limiter.check(key)).allowed

    return check


def by_limits(strategy: Strategy) -> Check:
    """Count with a strategy of the library."""
    item = RateLimitItemPerMinute(LIMIT)
    name = f"{NAME}:{type(strategy).__name__}"  # strategies would share keys

    async def check(key: str) -> bool:
        return await strategy.hit(item, name, key)

    return check


def group(name: str, ways: dict[str, Check], calls: int) -> list[Case]:
    """Return each way as a case of a group."""

    def case(way: str, check: Check) -> Case:
        keys = cycle(str(number) for number in range(KEYS))
        return Case(
            group=name,
            name=way,
            run=lambda: check(next(keys)),
            floor=way.startswith("INCR"),
            ours=way == "rate_limiter",
            package="limits" if way.startswith("limits") else None,
            expect=bool,
            concurrency=calls,
        )

    return [case(way, check) for way, check in ways.items()]


async def forget(redis: Redis) -> None:
    """Delete all counts."""
    for pattern in (f"{NAME}*", f"LIMITS*{NAME}*"):
        keys = [key async for key in redis.scan_iter(pattern, count=10_000)]
        if keys:
            await redis.unlink(*keys)


async def main() -> None:
    """Compare on Redis."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(
            create_redis(address("REDIS_URL"), pool_size=50, timeout=10)
        )
        await forget(redis)
        stack.push_async_callback(forget, redis)
        storage = RedisStorage(
            f"async+{address('REDIS_URL')}",
            implementation="redispy",
            protocol=2,
        )
        ways = {
            "INCR and EXPIRE": await floor(redis),
            "rate_limiter": ours(redis),
            "limits, fixed window": by_limits(FixedWindowRateLimiter(storage)),
            "limits, moving window": by_limits(MovingWindowRateLimiter(storage)),
            "limits, counted window": by_limits(
                SlidingWindowCounterRateLimiter(storage)
            ),
        }
        version = (await redis.info("server"))["redis_version"]
        await compare(
            "middleware/rate_limiter",
            [
                *group("one check", ways, 1),
                *group(f"{AT_ONCE} checks at once", ways, AT_ONCE),
            ],
            servers={"Redis": version},
        )


if __name__ == "__main__":
    asyncio.run(main())
