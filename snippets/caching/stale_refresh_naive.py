"""Refresh in the background from 80 % of the TTL on: once for each reader."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis


class EagerRefresh:
    """JSON values that live `ttl` seconds."""

    def __init__(self, redis: Redis, ttl: int) -> None:
        """Keep the client."""
        self._redis = redis
        self._ttl = ttl
        self._tasks: set[asyncio.Task[object]] = set()

    async def get(self, key: str, load: Callable[[], Awaitable[object]]) -> object:
        """Return what is stored, and refresh it if a fifth of its life is left."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.get(key)
            pipeline.ttl(key)
            found, left = await pipeline.execute()
        if found is None:
            return await self._store(key, load)
        if left <= self._ttl * 0.2:
            task = asyncio.create_task(self._store(key, load))
            self._tasks.add(task)  # else it might be collected while it runs
            task.add_done_callback(self._tasks.discard)
        return json.loads(found)

    async def _store(self, key: str, load: Callable[[], Awaitable[object]]) -> object:
        value = await load()
        await self._redis.set(key, json.dumps(value), ex=self._ttl)
        return value
