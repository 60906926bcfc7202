"""Keep the keys of each tag in a set, which ends too early and guards nothing."""

from redis.asyncio import Redis


class CacheManager:
    """Manage cached values by tag and by pattern."""

    def __init__(self, redis: Redis) -> None:
        """Keep the client."""
        self._redis = redis

    async def set_with_tags(
        self, key: str, value: bytes, tags: list[str], ttl: int = 300
    ) -> None:
        """Store a value, and remember its key under each tag."""
        await self._redis.set(key, value, ex=ttl)
        for tag in tags:
            await self._redis.sadd(f"tag:{tag}", key)
            await self._redis.expire(f"tag:{tag}", ttl)

    async def invalidate_by_tags(self, tags: list[str]) -> int:
        """Delete the values with any of these tags."""
        count = 0
        for tag in tags:
            keys = await self._redis.smembers(f"tag:{tag}")
            if keys:
                count += await self._redis.delete(*keys)
                await self._redis.delete(f"tag:{tag}")
        return count

    async def invalidate_pattern(self, pattern: str) -> int:
        """Delete the keys that match."""
        keys = [key async for key in self._redis.scan_iter(match=pattern)]
        return await self._redis.delete(*keys) if keys else 0
