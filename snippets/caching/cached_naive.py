"""The caching decorator that most services write first."""

import json
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from redis.asyncio import Redis


def cached(
    redis: Redis,
    *,
    key_prefix: str,
    ttl: int = 300,
    key_builder: Callable[..., str] | None = None,
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
    """Keep what the function returns in Redis, as JSON."""

    def decorator(func: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(func)
        async def wrapper(*args: object, **kwargs: object) -> object:
            if key_builder:
                cache_key = key_builder(*args, **kwargs)
            else:
                key_parts = [str(arg) for arg in args]
                key_parts.extend(f"{k}={v}" for k, v in kwargs.items())
                cache_key = f"{key_prefix}:{':'.join(key_parts)}"
            cached_value = json.loads(await redis.get(cache_key) or "null")
            if cached_value is not None:
                return cached_value
            result = await func(*args, **kwargs)
            await redis.set(cache_key, json.dumps(result), ex=ttl)
            return result

        return wrapper

    return decorator
