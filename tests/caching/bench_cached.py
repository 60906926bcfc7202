"""What a hit and a stampede cost, beside plain GET and decode and three libraries.

All ways but cashews share one client, which cashews does not take. A user is decoded
into the same model by all. In the groups of 32, each call is for another user.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from typing import Any, cast

import cashews
from fakeredis import FakeAsyncRedis
from fastapi_cache import FastAPICache
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.coder import PickleCoder
from fastapi_cache.decorator import cache as fastapi_cached
from pydantic import BaseModel
from redis.asyncio import Redis

from catalogue.bench import Case, compare
from snippets.caching.cached import Cache, cached
from snippets.caching.redis_client import create_redis
from tests.support.servers import address

aiocache: Any = import_module("aiocache")  # it has no types

NAMESPACE = "bench-cached:1"
AT_ONCE = 32
STAMPEDE = 200
TTL = 600
LOAD_SECONDS = 0.005


class User(BaseModel):
    """Somebody with a telephone."""

    id: int
    name: str
    tenant: str
    extensions: list[str]


GetUser = Callable[[int], Awaitable[User]]


async def load(user_id: int) -> User:
    """Find a user in a database that takes its time."""
    await asyncio.sleep(LOAD_SECONDS)
    return User(id=user_id, name="Ada", tenant="acme", extensions=["1001", "1002"])


@dataclass(frozen=True)
class Way:
    """One way of getting a user through a cache."""

    name: str
    get_user: GetUser
    floor: bool = False
    ours: bool = False
    package: str | None = None
    setup: Callable[[], Awaitable[object]] | None = None

    def case(
        self, group: str, run: Callable[[], Awaitable[object]], calls: int
    ) -> Case:
        """Return this way as one case of a group."""
        return Case(
            group=group,
            name=self.name,
            run=run,
            floor=self.floor,
            ours=self.ours,
            package=self.package,
            setup=self.setup,
            concurrency=calls,
        )


def plain(redis: Redis) -> Way:
    """GET, decode, and on a miss SET: the least that can be written by hand."""

    async def get_user(user_id: int) -> User:
        key = f"{NAMESPACE}:plain:{user_id}"
        if (found := await redis.get(key)) is not None:
            return User.model_validate_json(found)
        user = await load(user_id)
        await redis.set(key, user.model_dump_json(), ex=TTL)
        return user

    return Way("plain GET and decode", get_user, floor=True)


def ours(redis: Redis) -> Way:
    """The pattern."""
    cache = Cache(client=lambda: redis, namespace=NAMESPACE)
    return Way("cached", cached(cache, ttl=TTL, vary=None)(load), ours=True)


def ours_with_lease(redis: Redis) -> Way:
    """The pattern, with one execution in all processes."""
    cache = Cache(client=lambda: redis, namespace=f"{NAMESPACE}:lease")
    get_user = cached(cache, ttl=TTL, vary=None, lease=10)(load)
    return Way("cached with a lease", get_user, ours=True)


def by_aiocache(redis: Redis) -> Way:
    """Decorate with aiocache; its JSON serializer would lose the model."""
    get_user = aiocache.cached(
        ttl=TTL,
        cache=aiocache.Cache.REDIS,
        namespace=NAMESPACE,
        serializer=aiocache.serializers.PickleSerializer(),
        key_builder=lambda _, user_id: f"aiocache:{user_id}",
    )(load)
    get_user.cache.client = redis
    return Way("aiocache", cast("GetUser", get_user), package="aiocache")


def by_fastapi_cache(redis: Redis) -> Way:
    """Decorate with fastapi-cache2, whose backend is global."""

    async def use_this_redis() -> None:
        FastAPICache.reset()
        FastAPICache.init(RedisBackend(redis), prefix=NAMESPACE, coder=PickleCoder)

    get_user = cast("GetUser", fastapi_cached(expire=TTL)(load))
    return Way(
        "fastapi-cache2", get_user, package="fastapi-cache2", setup=use_this_redis
    )


def by_cashews(store: cashews.Cache, *, lock: bool) -> Way:
    """Decorate with cashews."""
    key = f"{NAMESPACE}:cashews:{lock:d}:{{user_id}}"
    get_user = cast("GetUser", store(ttl=TTL, key=key, lock=lock)(load))
    name = "cashews, lock=True" if lock else "cashews"
    return Way(name, get_user, package="cashews")


def hits(ways: Sequence[Way], where: str) -> list[Case]:
    """Return the groups of one hit, and of 32 for different users at once."""

    def hit(way: Way) -> Callable[[], Awaitable[object]]:
        users = cycle(range(AT_ONCE))
        return lambda: way.get_user(next(users))

    return [
        way.case(f"{group}, {where}", hit(way), calls)
        for calls, group in ((1, "one hit"), (AT_ONCE, f"{AT_ONCE} hits at once"))
        for way in ways
    ]


def stampedes(ways: Sequence[Way], redis: Redis) -> list[Case]:
    """Return the group in which 200 callers miss at once."""

    def stampede(way: Way) -> Callable[[], Awaitable[object]]:
        async def miss() -> None:
            await forget(redis)
            await asyncio.gather(*(way.get_user(0) for _ in range(STAMPEDE)))

        return miss

    group = f"{STAMPEDE} misses at once, Redis"
    return [way.case(group, stampede(way), 1) for way in ways]


async def forget(redis: Redis) -> None:
    """Delete everything that the ways have stored."""
    keys = [key async for key in redis.scan_iter(f"{NAMESPACE}*", count=10_000)]
    if keys:
        await redis.unlink(*keys)


async def main() -> None:
    """Compare, on Redis and embedded."""
    async with AsyncExitStack() as stack:
        real = await stack.enter_async_context(
            create_redis(address("REDIS_URL"), pool_size=50, timeout=10)
        )
        stack.push_async_callback(forget, real)
        fake = await stack.enter_async_context(FakeAsyncRedis())
        store = cashews.Cache()
        store.setup(address("REDIS_URL"), max_connections=50)
        stack.push_async_callback(store.close)
        makers = (plain, ours, ours_with_lease, by_aiocache, by_fastapi_cache)
        on_real = [make(real) for make in makers]
        on_real += [by_cashews(store, lock=lock) for lock in (False, True)]
        on_fake = [make(fake) for make in makers]
        version = (await real.info("server"))["redis_version"]
        await compare(
            "caching/cached",
            [
                *hits(on_real, "Redis"),
                *hits(on_fake, "fakeredis"),
                *stampedes(on_real, real),
            ],
            servers={"Redis": version},
        )


if __name__ == "__main__":
    asyncio.run(main())
