"""Put the whole edge around a telephony service, and try to get past it."""

import asyncio
import logging
from functools import partial

from fakeredis import FakeAsyncRedis
from fastapi import FastAPI, Request
from httpx import ASGITransport, AsyncClient, Response
from prometheus_client import CollectorRegistry

from snippets.errors.safe_errors import install_safety_net
from snippets.middleware.header_context import RequestIDMiddleware
from snippets.middleware.middleware_order import (
    MiddlewareOrderError,
    Stack,
    build_stack,
)
from snippets.middleware.rate_limiter import RateLimiter

ORIGIN = "https://desk.example"


def telephony() -> FastAPI:
    """Return a service that takes voicemails, and has a fault."""
    app = FastAPI()

    @app.post("/voicemails")
    async def leave(request: Request) -> int:
        return len(await request.body())

    @app.get("/calls/{call_id}")
    async def show(call_id: int) -> float:
        return 60 / call_id

    return app


def edge(redis: FakeAsyncRedis) -> Stack:
    """Say what this service allows."""
    return Stack(
        allowed_hosts=["telephony.example"],
        allowed_origins=[ORIGIN],
        max_body_size=1000,
        limiter=RateLimiter(
            name="requests",
            limit=3,
            window=60,
            client=lambda: redis,
            on_outage="open",
        ),
        registry=CollectorRegistry(),
        net=partial(install_safety_net, environment="production"),
    )


def seen(answer: Response) -> str:
    """Return the status of an answer, and what each answer must have."""
    names = "X-Request-ID", "X-Content-Type-Options", "Access-Control-Allow-Origin"
    marks = [answer.headers.get(name, "none") for name in names]
    return f"{answer.status_code} {' '.join(marks)}"


async def main() -> None:
    """Send what is refused by one layer after the other."""
    logging.getLogger("snippets").addHandler(logging.NullHandler())  # none is read here
    redis = FakeAsyncRedis()
    app = build_stack(telephony(), edge(redis))
    async with AsyncClient(
        transport=ASGITransport(app, raise_app_exceptions=False),
        base_url="https://telephony.example",
        headers={"X-Request-ID": "r-1", "Origin": ORIGIN},
    ) as http:
        print(seen(await http.get("/calls/7")))
        # > 200 r-1 nosniff https://desk.example
        print(seen(await http.post("/voicemails", content=b"la " * 1000)))
        # > 413 r-1 nosniff https://desk.example
        fault = await http.get("/calls/0")
        print(seen(fault), fault.json()["title"], fault.json()["request_id"])
        # > 500 r-1 nosniff https://desk.example Internal Server Error r-1
        print(seen(await http.get("/calls/7")))
        # > 429 r-1 nosniff https://desk.example

        ask = {"Access-Control-Request-Method": "DELETE"}
        print(seen(await http.options("/calls/7", headers=ask)))
        # > 200 r-1 nosniff https://desk.example
        print(seen(await http.get("/calls/7", headers={"Host": "elsewhere.example"})))
        # > 400 r-1 nosniff none

    has_one_already = telephony()
    has_one_already.add_middleware(RequestIDMiddleware)
    try:
        build_stack(has_one_already, edge(redis))
    except MiddlewareOrderError as error:
        print(error)
        # > RateLimitMiddleware must stand inside of RequestIDMiddleware
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
