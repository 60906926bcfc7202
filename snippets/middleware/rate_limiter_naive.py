"""A sliding window in a sorted set, as it stands in many tutorials."""

import time
from collections.abc import Callable

from redis.asyncio import Redis

SCRIPT = """
local key, now, window, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', key, 0, now - window)
redis.call('ZADD', key, now, now)
redis.call('EXPIRE', key, window)
return redis.call('ZCARD', key) <= limit and 1 or 0
"""


class SortedSetLimiter:
    """At most `limit` calls in `window` seconds."""

    def __init__(
        self,
        redis: Redis,
        limit: int,
        window: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep the client."""
        self.redis = redis
        self.limit = limit
        self.window = window
        self.clock = clock

    async def is_allowed(self, key: str) -> bool:
        """Count a call."""
        now = f"{self.clock():.3f}"
        arguments = key, now, self.window, self.limit
        return bool(await self.redis.eval(SCRIPT, 1, *arguments))
