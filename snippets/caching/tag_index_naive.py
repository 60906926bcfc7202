"""Write the value, then its key into a set per tag, each for itself."""

from redis.asyncio import Redis

SECONDS = 300


async def store(redis: Redis, key: str, value: bytes, *tags: str) -> None:
    """Store a value, and remember its key under each tag."""
    await redis.set(key, value, ex=SECONDS)
    for tag in tags:
        await redis.sadd(tag, key)


async def invalidate(redis: Redis, tag: str) -> int:
    """Delete the values with this tag; return how many there were."""
    keys = await redis.smembers(tag)
    return await redis.delete(*keys) if keys else 0
