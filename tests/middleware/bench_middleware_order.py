"""What each layer costs, and all of them, beside a bare FastAPI application.

A request is one call of the application in process, with the headers of a browser. The
rate is counted in Redis, by slowapi in its own memory: so the whole stack stands there
twice, with a request that is counted, and with one whose path is exempt. Each record of
the log is formatted, and dropped. The eight layers of Starlette's BaseHTTPMiddleware do
nothing; the libraries are installed as their documentation says.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, cast

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI, Request
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response

from catalogue.bench import Case, compare
from snippets.caching.redis_client import create_redis
from snippets.middleware.body_limit import BodyLimitMiddleware
from snippets.middleware.client_address import client_network
from snippets.middleware.header_context import (
    CorrelationIDMiddleware,
    RequestIDMiddleware,
)
from snippets.middleware.http_metrics import MetricsMiddleware
from snippets.middleware.middleware_order import Stack, build_stack
from snippets.middleware.rate_limit import RateLimitMiddleware
from snippets.middleware.rate_limiter import RateLimiter
from snippets.middleware.request_logging import RequestLoggingMiddleware
from snippets.middleware.security_headers import SecurityHeadersMiddleware
from tests.support.asgi import ASGIApp, Exchange, Receive, Scope, Send
from tests.support.servers import address

instrumentator: Any = import_module("prometheus_fastapi_instrumentator")
slowapi: Any = import_module("slowapi")
slowapi_asgi: Any = import_module("slowapi.middleware")

GROUP = "one request, in process"
HEADERS = [
    ("X-Request-ID", "0" * 12 + "4" + "0" * 3 + "8" + "0" * 15),
    ("Origin", "https://desk.example"),
    ("User-Agent", "Mozilla/5.0"),
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip"),
    ("Accept-Language", "en"),
]


class NoOp:
    """A layer of pure ASGI that does nothing."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        await self.app(scope, receive, send)


class BaseNoOp(BaseHTTPMiddleware):
    """A layer of Starlette's base class that does nothing."""

    async def dispatch(
        self, request: Request, call_next: RequestResponseEndpoint
    ) -> Response:
        """Pass everything on."""
        return await call_next(request)


def bare() -> FastAPI:
    """Return an application without any layer."""
    app = FastAPI()

    @app.get("/calls/{call_id}")
    async def show(call_id: int) -> dict[str, int]:
        return {"call": call_id}

    return app


def client(scope: Scope) -> str:
    """Return who is counted."""
    return client_network(scope, trusted_proxies=())


def limiter(redis: Redis) -> RateLimiter:
    """Return a limiter which admits all, and forgets them soon."""
    return RateLimiter(
        name="bench",
        limit=1_000_000,
        window=0.01,
        client=lambda: redis,
        on_outage="closed",
    )


def all_layers(redis: Redis, unlimited: str) -> ASGIApp:
    """Return what `build_stack` makes of an application."""
    stack = Stack(
        allowed_hosts=["test"],
        allowed_origins=["https://desk.example"],
        max_body_size=1_000_000,
        limiter=limiter(redis),
        registry=CollectorRegistry(),
        tenant=Middleware(NoOp),
        unlimited=[unlimited],
    )
    return build_stack(bare(), stack)


def libraries() -> FastAPI:
    """Return an application with the libraries that do what three of ours do."""
    app = bare()
    app.state.limiter = slowapi.Limiter(
        key_func=lambda: "192.0.2.1", default_limits=["1000000/minute"]
    )
    app.add_middleware(slowapi_asgi.SlowAPIASGIMiddleware)
    instrumentator.Instrumentator(registry=CollectorRegistry()).instrument(app)
    app.add_middleware(CorrelationIdMiddleware)
    return app


def eight(layer: Callable[[ASGIApp], ASGIApp]) -> FastAPI:
    """Return an application with eight layers that do nothing."""
    app = bare()
    for _ in range(8):
        app.add_middleware(layer)
    return app


def request(app: ASGIApp) -> Callable[[], Awaitable[Exchange]]:
    """Return a function that sends one request."""
    return lambda: Exchange("GET", "/calls/7", HEADERS).run(app)


class Dropped(logging.Handler):
    """Formats records, and drops them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Format one."""
        self.format(record)


async def main() -> None:
    """Connect, log and compare."""
    logger = logging.getLogger("snippets.middleware.request_logging")
    handler = Dropped()
    handler.setFormatter(logging.Formatter("%(message)s %(access)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    async with create_redis(address("REDIS_URL")) as redis:
        await compare_all(redis)


async def compare_all(redis: Redis) -> None:
    """Compare all of them in one group."""
    ours: dict[str, ASGIApp] = {
        "request id": RequestIDMiddleware(bare()),
        "correlation id": CorrelationIDMiddleware(bare()),
        "security headers": SecurityHeadersMiddleware(bare()),
        "access log": RequestLoggingMiddleware(bare()),
        "metrics": MetricsMiddleware(bare(), registry=CollectorRegistry()),
        "trusted host": TrustedHostMiddleware(bare(), ["test"]),
        "CORS": CORSMiddleware(bare(), allow_origins=["https://desk.example"]),
        "body limit": BodyLimitMiddleware(bare(), max_body_size=1_000_000),
        "rate limit, with its round trip to Redis": RateLimitMiddleware(
            bare(), limiter=limiter(redis), key=client
        ),
        "all of them, with that round trip": all_layers(redis, unlimited="/health"),
        "all of them, path not limited: no round trip": all_layers(
            redis, unlimited="/calls"
        ),
    }
    peers: dict[str, ASGIApp] = {
        "pure ASGI, one layer that does nothing": NoOp(bare()),
        "pure ASGI, eight layers that do nothing": eight(NoOp),
        "BaseHTTPMiddleware, one layer": BaseNoOp(bare()),
        "BaseHTTPMiddleware, eight layers": eight(BaseNoOp),
        "asgi-correlation-id, slowapi, instrumentator": libraries(),
    }
    floor = request(bare())
    await compare(
        "middleware/middleware_order",
        [
            Case(group=GROUP, name="bare FastAPI", run=floor, floor=True, expect=is_ok),
            *(
                Case(group=GROUP, name=name, run=request(app), ours=True, expect=is_ok)
                for name, app in ours.items()
            ),
            *(
                Case(group=GROUP, name=name, run=request(app), expect=is_ok)
                for name, app in peers.items()
            ),
        ],
        servers={"Redis": (await redis.info("server"))["redis_version"]},
    )


def is_ok(exchange: object) -> bool:
    """Whether the answer is what the route returns."""
    return cast("Exchange", exchange).body == b'{"call":7}'


if __name__ == "__main__":
    asyncio.run(main())
