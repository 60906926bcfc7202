"""Read through a cache with one `try` around it all, so an outage may load twice."""

import json
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError


class FallBack:
    """JSON values that live `ttl` seconds."""

    def __init__(self, redis: Redis, ttl: int) -> None:
        """Keep the client."""
        self._redis = redis
        self._ttl = ttl

    async def get(self, key: str, load: Callable[[], Awaitable[object]]) -> object:
        """Return what is stored or loaded; if Redis fails, load it."""
        try:
            found = await self._redis.get(key)
            if found is not None:
                return json.loads(found)
            value = await load()
            await self._redis.set(key, json.dumps(value), ex=self._ttl)
        except RedisError:
            return await load()
        return value
