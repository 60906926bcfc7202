"""Values with tags: how readers store them, and what is left of them in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snippets.caching.cache_manager import CacheManager

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from snippets.caching.tag_index import Reading, TagIndex

HOUR = 3600.0


async def get(values: CacheManager | TagIndex, key: str) -> Reading:
    """Read as that class is read."""
    if isinstance(values, CacheManager):
        return await values.get(key)
    return await values.read(key)


async def store(
    values: CacheManager | TagIndex, reading: Reading, *tags: str, ttl: float = HOUR
) -> bool:
    """Store the key as its value."""
    payload = reading.key.encode()
    if isinstance(values, CacheManager):
        return await values.set_with_tags(reading, payload, *tags, ttl=ttl)
    return await values.store(reading, payload, *tags, ttl=ttl)


async def put(
    values: CacheManager | TagIndex, key: str, *tags: str, ttl: float = HOUR
) -> bool:
    """Store a value as a reader does who finds none."""
    return await store(values, await get(values, key), *tags, ttl=ttl)


async def fill(values: CacheManager | TagIndex, keys: list[str], *tags: str) -> None:
    """Store many entries."""
    reading = await get(values, keys[0])
    for key in keys:
        assert await store(values, reading._replace(key=key), *tags)


async def kept(values: CacheManager | TagIndex, *keys: str) -> list[str]:
    """Return those keys that have a value."""
    return [key for key in keys if (await get(values, key)).payload is not None]


async def names(redis: Redis, namespace: str) -> set[str]:
    """Return what is kept in Redis, without its prefix."""
    prefix = f"{{{namespace}}}"
    keys = [key async for key in redis.scan_iter(f"{prefix}*", count=1000)]
    return {key.decode().removeprefix(prefix) for key in keys}
