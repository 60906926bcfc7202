"""Wire Redis into FastAPI: one client per process, opened and closed with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from redis.asyncio import Redis

from snippets.caching.codec import Codec
from snippets.caching.redis_client import (
    MISS,
    Namespace,
    create_redis,
    get_redis,
    namespaced,
)

RedisDep = Annotated[Redis, Depends(get_redis)]


async def get_extensions(redis: RedisDep) -> Namespace[list[str]]:
    """Return the numbers that ring at each user's desk."""
    return namespaced(redis, "telephony", version=1, codec=Codec(list[str]))


ExtensionsDep = Annotated[Namespace[list[str]], Depends(get_extensions)]


def create_app(redis_url: str) -> FastAPI:
    """Return an application that starts whether or not Redis is there."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with create_redis(redis_url) as app.state.redis:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.put("/users/{user_id}/extensions", status_code=204)
    async def put(user_id: int, numbers: list[str], extensions: ExtensionsDep) -> None:
        await extensions.set("extensions", user_id, value=numbers, ttl=3600)

    @app.get("/users/{user_id}/extensions")
    async def get(user_id: int, extensions: ExtensionsDep) -> list[str]:
        numbers = await extensions.get("extensions", user_id)
        if numbers is MISS:
            raise HTTPException(404)
        return numbers

    @app.delete("/users/{user_id}/extensions", status_code=204)
    async def delete(user_id: int, extensions: ExtensionsDep) -> None:
        await extensions.delete("extensions", user_id)

    return app
