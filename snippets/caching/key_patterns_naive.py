"""List the keys that match with KEYS, and delete them all in one command."""

from redis.asyncio import Redis


async def delete_matching(redis: Redis, pattern: str) -> int:
    """Delete the keys that match a pattern, and return how many there were."""
    keys = await redis.keys(pattern)
    return await redis.delete(*keys) if keys else 0


async def forget_user(redis: Redis, username: str) -> int:
    """Delete everything that is cached about a user."""
    return await delete_matching(redis, f"user:{username}*")
