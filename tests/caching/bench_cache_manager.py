"""What a hit and an invalidation of 500 entries cost, beside sets by hand and cashews.

An invalidation needs entries, so its group stores 500 with one tag, at once, and then
invalidates the tag. The floor is a SET and a SADD per entry in one trip, then SMEMBERS
and one UNLINK; it guards against nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import cashews
from redis.asyncio import Redis

from catalogue.bench import Case, compare
from snippets.caching.cache_manager import CacheManager
from snippets.caching.redis_client import create_redis
from tests.support.servers import address

NAMESPACE = "bench-cache-manager:1"
ENTRIES = 500
TTL = 600
PAYLOAD = b"Ada" * 50

Store = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Way:
    """One way of storing entries under a tag, and of getting rid of them."""

    name: str
    get: Callable[[str], Awaitable[bytes | None]]
    store: Store
    invalidate: Callable[[], Awaitable[object]]
    floor: bool = False
    ours: bool = False
    package: str | None = None

    async def hit(self) -> bytes | None:
        """Read an entry that is there."""
        return await self.get("hit")

    async def store_and_invalidate(self) -> None:
        """Store many entries, and invalidate them by their tag."""
        keys = [f"user:{number}" for number in range(ENTRIES)]
        await asyncio.gather(*map(self.store, keys))
        await self.invalidate()

    def cases(self) -> list[Case]:
        """Return this way as a case of each group."""

        async def store_hit() -> None:
            await self.store("hit")

        groups = {
            "one hit, Redis": (self.hit, store_hit),
            f"store {ENTRIES} and invalidate, Redis": (self.store_and_invalidate, None),
        }
        return [
            Case(
                group=group,
                name=self.name,
                run=run,
                setup=setup,
                floor=self.floor,
                ours=self.ours,
                package=self.package,
            )
            for group, (run, setup) in groups.items()
        ]


def by_hand(redis: Redis) -> Way:
    """Keep the keys of a tag in a set: the least that can be written."""
    tag = f"{NAMESPACE}:tag"

    async def get(key: str) -> bytes | None:
        found = await redis.get(f"{NAMESPACE}:{key}")
        return found if isinstance(found, bytes) else None

    async def store(key: str) -> None:
        pipeline = redis.pipeline(transaction=False)
        pipeline.set(f"{NAMESPACE}:{key}", PAYLOAD, ex=TTL)
        pipeline.sadd(tag, f"{NAMESPACE}:{key}")
        await pipeline.execute()

    async def invalidate() -> None:
        await redis.unlink(tag, *(await redis.smembers(tag)))

    return Way("set of keys by hand", get, store, invalidate, floor=True)


def ours(redis: Redis) -> Way:
    """The pattern, each entry read before it is stored."""
    manager = CacheManager(lambda: redis, NAMESPACE)

    async def get(key: str) -> bytes | None:
        return (await manager.get(key)).payload

    async def store(key: str) -> None:
        reading = await manager.get(key)
        await manager.set_with_tags(reading, PAYLOAD, "acme", ttl=TTL)

    async def invalidate() -> int:
        return await manager.invalidate_by_tags("acme")

    return Way("cache manager", get, store, invalidate, ours=True)


def by_cashews(cache: cashews.Cache) -> Way:
    """Cashews, which marks no readers."""

    async def get(key: str) -> bytes | None:
        found: bytes | None = await cache.get(f"{NAMESPACE}:cashews:{key}")
        return found

    async def store(key: str) -> None:
        name = f"{NAMESPACE}:cashews:{key}"
        await cache.set(name, PAYLOAD, expire=TTL, tags=[f"{NAMESPACE}:acme"])

    async def invalidate() -> None:
        await cache.delete_tags(f"{NAMESPACE}:acme")

    return Way("cashews", get, store, invalidate, package="cashews")


async def main() -> None:
    """Compare, on Redis."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(
            create_redis(address("REDIS_URL"), pool_size=50, timeout=10)
        )
        cache = cashews.Cache()
        cache.setup(address("REDIS_URL"), max_connections=1000)
        cache.register_tag(f"{NAMESPACE}:acme", f"{NAMESPACE}:cashews:{{key}}")
        stack.push_async_callback(cache.close)
        ways = [by_hand(redis), ours(redis), by_cashews(cache)]
        stack.push_async_callback(redis.unlink, f"{{{NAMESPACE}}}")  # the marks
        for way in ways:
            stack.push_async_callback(way.invalidate)
        version = (await redis.info("server"))["redis_version"]
        await compare(
            "caching/cache_manager",
            [case for way in ways for case in way.cases()],
            rounds=9,
            servers={"Redis": version},
        )


if __name__ == "__main__":
    asyncio.run(main())
