"""Cache-aside with GET, SET and DELETE: a slow reader undoes an invalidation."""

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis


class PlainEntries:
    """Entries that live `ttl` seconds, loaded under a lock."""

    def __init__(self, redis: Redis, ttl: int) -> None:
        """Keep the client."""
        self._redis = redis
        self._ttl = ttl

    async def get(self, key: str, load: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the entry; if there is none, load it, and store it with the lock."""
        found = await self._redis.get(key)
        if isinstance(found, bytes):
            return found
        has_lock = await self._redis.set(f"{key}:lock", 1, nx=True, ex=10)
        value = await load()
        if has_lock:
            await self._redis.set(key, value, ex=self._ttl)
            await self._redis.delete(f"{key}:lock")
        return value

    async def invalidate(self, key: str) -> None:
        """Remove the entry."""
        await self._redis.delete(key)
