"""Values with tags: how readers store them, and what is left of them in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snippets.caching.cache_manager import CacheManager

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

    from snippets.caching.tag_index import Reading, TagIndex

HOUR = 3600.0
FILL = """
for i = 1, ARGV[1] do
  local key = 'call:' .. i
  redis.call('HSET', KEYS[1] .. ':entry:' .. key, '=', '', ARGV[2], '')
  redis.call('ZADD', KEYS[1] .. ':index:' .. ARGV[2], 1e15, key)
end
"""


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


async def fill(
    redis: Redis | RedisCluster, namespace: str, entries: int, tag: str
) -> None:
    """Put as many entries as `TagIndex` would store with a tag: call:1, and so on."""
    await redis.eval(FILL, 1, f"{{{namespace}}}", entries, f"#{tag}")


async def kept(values: CacheManager | TagIndex, *keys: str) -> list[str]:
    """Return those keys that have a value."""
    return [key for key in keys if (await get(values, key)).payload is not None]


async def count(redis: Redis, namespace: str) -> int:
    """Return how many entries there are."""
    found = await names(redis, namespace)
    return sum(name.startswith(":entry:") for name in found)


async def names(redis: Redis, namespace: str) -> set[str]:
    """Return what is kept in Redis, without its prefix."""
    prefix = f"{{{namespace}}}"
    keys = [key async for key in redis.scan_iter(f"{prefix}*", count=1000)]
    return {key.decode().removeprefix(prefix) for key in keys}
