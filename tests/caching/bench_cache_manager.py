"""What a hit, a store and an invalidation cost, beside sets by hand and cashews.

An invalidation needs entries, so before each round 24 tags are given 500 entries each,
and that is not timed. Each is invalidated once, one after the other. The floor is a SET
and a SADD per entry in one trip, then SMEMBERS and one UNLINK; it guards against
nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import cashews
from redis.asyncio import Redis

from catalogue.bench import Case, compare
from snippets.caching.cache_manager import CacheManager
from snippets.caching.redis_client import create_redis
from tests.support.servers import address

NAMESPACE = "bench-cache-manager:1"
ENTRIES = 500
TAGS = [f"team:{number}" for number in range(24)]
TTL = 600
PAYLOAD = b"Ada" * 50

Store = Callable[[str, str], Awaitable[object]]

Run = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Way:
    """One way of storing entries under a tag, and of getting rid of them."""

    name: str
    get: Callable[[str], Awaitable[bytes | None]]
    store: Store
    invalidate: Callable[[str], Awaitable[object]]
    floor: bool = False
    ours: bool = False
    package: str | None = None
    filled: list[str] = field(default_factory=list)

    async def hit(self) -> bytes | None:
        """Read an entry that is there."""
        return await self.get(f"{TAGS[0]}:hit")

    async def store_hit(self) -> None:
        """Store the entry that a hit reads."""
        await self.store(f"{TAGS[0]}:hit", TAGS[0])

    async def store_many(self) -> None:
        """Store as many entries as an invalidation finds, at once."""
        await self.fill(TAGS[0])

    async def fill(self, tag: str) -> None:
        """Give a tag its entries."""
        keys = [f"{tag}:{number}" for number in range(ENTRIES)]
        await asyncio.gather(*(self.store(key, tag) for key in keys))

    async def fill_all(self) -> None:
        """Give all tags their entries, which one run of `invalidate_all` removes."""
        for tag in TAGS:
            await self.fill(tag)
        self.filled[:] = TAGS

    async def invalidate_all(self) -> None:
        """Invalidate each tag once."""
        if not self.filled:
            raise LookupError("two runs in a round: the second finds nothing")
        while self.filled:
            await self.invalidate(self.filled.pop())

    def cases(self) -> list[Case]:
        """Return this way as a case of each group."""
        groups: dict[str, tuple[Run, Run | None]] = {
            "one hit, Redis": (self.hit, self.store_hit),
            f"store {ENTRIES} with a tag, Redis": (self.store_many, None),
            f"invalidate {len(TAGS)} tags of {ENTRIES} entries each, Redis": (
                self.invalidate_all,
                self.fill_all,
            ),
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

    async def get(key: str) -> bytes | None:
        found = await redis.get(f"{NAMESPACE}:{key}")
        return found if isinstance(found, bytes) else None

    async def store(key: str, tag: str) -> None:
        pipeline = redis.pipeline(transaction=False)
        pipeline.set(f"{NAMESPACE}:{key}", PAYLOAD, ex=TTL)
        pipeline.sadd(f"{NAMESPACE}:tag:{tag}", f"{NAMESPACE}:{key}")
        await pipeline.execute()

    async def invalidate(tag: str) -> None:
        name = f"{NAMESPACE}:tag:{tag}"
        await redis.unlink(name, *(await redis.smembers(name)))

    return Way("set of keys by hand", get, store, invalidate, floor=True)


def ours(redis: Redis) -> Way:
    """The pattern, each entry read before it is stored."""
    manager = CacheManager(lambda: redis, NAMESPACE)

    async def get(key: str) -> bytes | None:
        return (await manager.get(key)).payload

    async def store(key: str, tag: str) -> None:
        reading = await manager.get(key)
        await manager.set_with_tags(reading, PAYLOAD, tag, ttl=TTL)

    async def invalidate(tag: str) -> int:
        return await manager.invalidate_by_tags(tag)

    return Way("cache manager", get, store, invalidate, ours=True)


def by_cashews(cache: cashews.Cache) -> Way:
    """Cashews, which marks no readers."""

    async def get(key: str) -> bytes | None:
        found: bytes | None = await cache.get(f"{NAMESPACE}:cashews:{key}")
        return found

    async def store(key: str, tag: str) -> None:
        name = f"{NAMESPACE}:cashews:{key}"
        await cache.set(name, PAYLOAD, expire=TTL, tags=[f"{NAMESPACE}:{tag}"])

    async def invalidate(tag: str) -> None:
        await cache.delete_tags(f"{NAMESPACE}:{tag}")

    return Way("cashews", get, store, invalidate, package="cashews")


async def main() -> None:
    """Compare, on Redis."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(
            create_redis(address("REDIS_URL"), pool_size=50, timeout=10)
        )
        cache = cashews.Cache()
        cache.setup(address("REDIS_URL"), max_connections=1000)
        for tag in TAGS:
            name = f"{NAMESPACE}:{tag}"
            cache.register_tag(name, f"{NAMESPACE}:cashews:{tag}:{{number}}")
        stack.push_async_callback(cache.close)
        ways = [by_hand(redis), ours(redis), by_cashews(cache)]
        stack.push_async_callback(redis.unlink, f"{{{NAMESPACE}}}")  # the marks
        for way in ways:
            for tag in TAGS:
                stack.push_async_callback(way.invalidate, tag)
        version = (await redis.info("server"))["redis_version"]
        await compare(
            "caching/cache_manager",
            [case for way in ways for case in way.cases()],
            rounds=9,
            servers={"Redis": version},
        )


if __name__ == "__main__":
    asyncio.run(main())
