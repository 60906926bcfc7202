"""Wire background refreshes into FastAPI: they end before the Redis client does."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated

from fastapi import Depends, FastAPI, Header

from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.redis_client import create_redis
from snippets.caching.stale_refresh import StaleRefresh

tenant: ContextVar[str] = ContextVar("tenant")


async def set_tenant(x_tenant: Annotated[str, Header(min_length=1)]) -> None:
    """Say for whom this request is; a real service takes it from a verified token."""
    tenant.set(x_tenant)


def create_app(
    redis_url: str,
    count_calls: Callable[[], Awaitable[int]],
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Return an application that counts the tenant's open calls twice a minute."""
    open_calls = StaleRefresh(
        name="open calls",
        kind=int,
        entries=GuardedEntries(client=lambda: app.state.redis, ttl=60, lease=10),
        lease=10,
        refresh_at=0.5,
        clock=clock,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with create_redis(redis_url) as app.state.redis, open_calls:
            yield

    app = FastAPI(lifespan=lifespan, dependencies=[Depends(set_tenant)])

    @app.get("/calls/open")
    async def show() -> int:
        # Runs on after the response, when a request's own session is closed.
        return await open_calls.get(f"telephony:1:calls:{tenant.get()}", count_calls)

    @app.delete("/calls/open", status_code=204)
    async def forget() -> None:
        await open_calls.invalidate(f"telephony:1:calls:{tenant.get()}")

    return app
