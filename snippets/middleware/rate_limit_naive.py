"""A rate limit as a dependency: read the count, compare, write it back."""

from fastapi import HTTPException, Request
from redis.asyncio import Redis


class RateLimit:
    """At most `limit` requests in each window of so many seconds."""

    def __init__(self, redis: Redis, limit: int, window: int) -> None:
        """Keep the client."""
        self.redis = redis
        self.limit = limit
        self.window = window

    async def __call__(self, request: Request) -> None:
        """Refuse what is too much."""
        forwarded = request.headers.get("X-Forwarded-For")
        host = request.client.host if request.client else "unknown"
        address = forwarded.split(",")[0] if forwarded else host
        key = f"rate:{address}"
        count = int(await self.redis.get(key) or 0)
        if count >= self.limit:
            raise HTTPException(429, "Too many requests")
        await self.redis.set(key, count + 1, ex=self.window)
