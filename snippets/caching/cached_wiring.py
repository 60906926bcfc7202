"""Wire cached functions into FastAPI: one cache per process, one entry per tenant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel

from snippets.caching.cached import Cache, cached
from snippets.caching.redis_client import create_redis

tenant: ContextVar[str] = ContextVar("tenant")


class User(BaseModel):
    """Somebody with a telephone."""

    id: int
    tenant: str
    name: str


async def set_tenant(x_tenant: Annotated[str, Header(min_length=1)]) -> None:
    """Say for whom this request is; a real service takes it from a verified token."""
    tenant.set(x_tenant)


def create_app(redis_url: str, users: dict[tuple[str, int], str]) -> FastAPI:
    """Return an application that answers with Redis, and without it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with create_redis(redis_url) as app.state.redis:
            yield

    app = FastAPI(lifespan=lifespan, dependencies=[Depends(set_tenant)])
    cache = Cache(client=lambda: app.state.redis, namespace="telephony:1")

    @cached(cache, ttl=300, vary=tenant.get)
    async def get_user(user_id: int) -> User:
        name = users[tenant.get(), user_id]
        return User(id=user_id, tenant=tenant.get(), name=name)

    @app.get("/users/{user_id}")
    async def show(user_id: int) -> User:
        return await get_user(user_id)

    @app.put("/users/{user_id}", status_code=204)
    async def rename(user_id: int, name: str) -> None:
        users[tenant.get(), user_id] = name
        await get_user.invalidate(user_id)

    return app
