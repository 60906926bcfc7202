"""A JSON cache on the default client: shortcuts that lose types, misses and calls."""

import json
from typing import Any

from redis.asyncio import Redis


class JsonCache:
    """What most services start with."""

    def __init__(self, redis: Redis) -> None:
        """Use `Redis()` with its default pool."""
        self._redis = redis

    async def get(self, key: str) -> object:
        """Return the value, parsed if it looks like JSON; None if there is none."""
        value: Any = await self._redis.get(key)
        if value is None:
            return None
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return str(value, "utf-8")

    async def set(self, key: str, value: object, ttl: int = 300) -> None:
        """Store text as it is, anything else as JSON."""
        text = value if isinstance(value, str) else json.dumps(value)
        await self._redis.set(key, text, ex=ttl)

    async def delete(self, key: str) -> None:
        """Remove a value."""
        await self._redis.delete(key)
