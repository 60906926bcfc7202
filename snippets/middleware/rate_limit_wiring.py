"""Wire two limits into FastAPI: one for each client, and one for each tenant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Scope

from snippets.caching.redis_client import create_redis
from snippets.middleware.client_address import Networks, client_network
from snippets.middleware.rate_limit import (
    RateLimited,
    RateLimitMiddleware,
    rate_limit,
    refusal,
)
from snippets.middleware.rate_limiter import RateLimiter


async def set_tenant(
    request: Request, x_tenant: Annotated[str, Header(pattern=r"^\w{1,40}$")]
) -> None:
    """Say for whom this request is; a real service takes it from a verified token."""
    request.state.tenant = x_tenant


def tenant_of(scope: Scope) -> str:
    """Return the tenant whose calls are counted."""
    tenant: str = scope["state"]["tenant"]
    return tenant


def create_app(
    redis_url: str,
    *,
    trusted_proxies: Networks,
    registry: CollectorRegistry,
    calls_window: float = 1,
) -> FastAPI:
    """Return an application that answers without Redis, but starts no calls.

    `calls_window` is the time in seconds in which a tenant may start ten calls.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with create_redis(redis_url) as app.state.redis:
            yield

    app = FastAPI(lifespan=lifespan)
    name, text = "rate_limit_uncounted_total", "Requests that were not counted."
    uncounted = Counter(name, text, ["limiter"], registry=registry)

    def on_failure(limiter: str) -> None:
        uncounted.labels(limiter).inc()

    requests = RateLimiter(
        name="telephony-requests",
        limit=100,
        window=60,
        client=lambda: app.state.redis,
        on_outage="open",
        on_failure=on_failure,
    )
    calls = RateLimiter(
        name="telephony-calls",
        limit=10,
        window=calls_window,
        client=lambda: app.state.redis,
        on_outage="closed",
        on_failure=on_failure,
    )
    app.add_middleware(
        RateLimitMiddleware,
        limiter=requests,
        key=lambda scope: client_network(scope, trusted_proxies=trusted_proxies),
        exempt=["/health"],
    )

    @app.exception_handler(RateLimited)
    async def refuse(request: Request, error: RateLimited) -> JSONResponse:
        return refusal(request.scope, error)

    limit_conferences = rate_limit(calls, key=tenant_of, cost=5)

    @app.post(
        "/conferences", dependencies=[Depends(set_tenant), Depends(limit_conferences)]
    )
    async def start_conference(numbers: list[str]) -> dict[str, int]:
        return {"called": len(numbers)}

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"counting": requests.is_available and calls.is_available}

    return app
