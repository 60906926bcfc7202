"""Connect to Redis once per process, with every wait bounded and every key namespaced.

`create_redis` returns a client that makes callers queue for a connection where the
default pool refuses them, and gives up on a server that does not answer. It connects at
the first command, so a service starts without Redis, and connects anew after a failure.

`namespaced` gives typed values under keys that start `app:version:`. What is read
equals what was written in value and in type, a stored None is not a miss, an entry
always has a time to live or is said to have none, and `flush` removes this namespace
and no other. Raises what the client raises.
"""

import re
from enum import Enum
from typing import Final, Generic, Literal, TypeVar
from urllib.parse import quote

from fastapi.requests import HTTPConnection
from redis.asyncio import BlockingConnectionPool, Redis

from snippets.caching.codec import Codec

T = TypeVar("T")

BATCH = 500
SHORTEST_SECONDS, LONGEST_SECONDS = 0.001, 100 * 365 * 24 * 3600


class Missing(Enum):
    """The type of `MISS`."""

    MISS = "MISS"


MISS: Final = Missing.MISS
"""What `Namespace.get` returns where nothing is stored."""


def create_redis(url: str, *, pool_size: int = 20, timeout: float = 1.0) -> Redis:
    """Return a client; close it with `aclose`, or use it with `async with`.

    `timeout` is in seconds and bounds each wait: for one of the `pool_size`
    connections, for connecting, and for each answer. After that a subclass of
    `redis.exceptions.RedisError` is raised. Nothing is tried twice, because a command
    whose answer was lost may have been run. Options in the URL win.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=pool_size,
        timeout=timeout,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        protocol=2,  # on 3, redis-py 8 no longer sees that a pooled connection is dead
    )
    return Redis.from_pool(pool)


async def get_redis(connection: HTTPConnection) -> Redis:
    """Return the process's client, which the lifespan keeps in `app.state.redis`.

    A FastAPI dependency, for requests and for websockets.
    """
    client: Redis = connection.app.state.redis
    return client


class Namespace(Generic[T]):
    """Values of one type, under keys that start with `prefix`."""

    def __init__(self, redis: Redis, prefix: str, codec: Codec[T]) -> None:
        """Use `namespaced`, which checks the prefix."""
        self._redis = redis
        self._prefix = prefix
        self._codec = codec

    def key(self, *parts: str | int) -> str:
        """Return the Redis key of a name, which may consist of any characters."""
        return self._prefix + ":".join(quote(str(part), safe="") for part in parts)

    async def get(self, *parts: str | int) -> T | Literal[Missing.MISS]:
        """Return the value, or `MISS`; raise `CodecError` if it is no such value."""
        payload = await self._redis.get(self.key(*parts))
        return MISS if payload is None else self._codec.decode(payload)

    async def set(self, *parts: str | int, value: T, ttl: float | None) -> None:
        """Store a value for `ttl` seconds, or for ever if that is None.

        Raises `CodecError` if the value would not come back as it is, and `ValueError`
        for a `ttl` that is not between a millisecond and a century.
        """
        if ttl is not None and not SHORTEST_SECONDS <= ttl <= LONGEST_SECONDS:
            raise ValueError(f"{ttl} s is not a time to live; None is for ever")
        px = None if ttl is None else round(ttl * 1000)
        await self._redis.set(self.key(*parts), self._codec.encode(value), px=px)

    async def delete(self, *parts: str | int) -> bool:
        """Remove a value; return whether there was one."""
        return bool(await self._redis.unlink(self.key(*parts)))

    async def flush(self) -> int:
        """Remove the whole namespace, and return how many keys it had.

        Goes through the server's keys in batches, so it holds nobody up, and may miss a
        key that is set meanwhile.
        """
        cursor, removed = 0, 0
        while True:
            cursor, keys = await self._redis.scan(
                cursor, match=f"{self._prefix}*", count=BATCH
            )
            if keys:
                removed += await self._redis.unlink(*keys)
            if cursor == 0:
                return removed


def namespaced(
    redis: Redis, app: str, *, version: int, codec: Codec[T]
) -> Namespace[T]:
    """Return the namespace `app:version:`; a new version starts empty.

    Raises `ValueError` unless `app` consists of letters, digits, `_` and `-`, so that
    no application's keys start with those of another.
    """
    if not re.fullmatch(r"[\w-]+", app, re.ASCII) or version < 0:
        raise ValueError(f"{app!r} version {version} is no name for a namespace")
    return Namespace(redis, f"{app}:{version}:", codec)
