"""The whole edge over a socket of uvicorn: what clients do to connections."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from snippets.middleware import request_logging
from snippets.middleware.header_context import ASGIApp, request_id
from snippets.middleware.middleware_order import Stack, build_stack
from snippets.middleware.rate_limiter import RateLimiter
from tests.support.asgi import LiveServer, Receive, Scope, Send, live_server, values_of

PATIENCE = 60
"""Seconds after which something hangs."""


@pytest.fixture
def stack(redis: Redis) -> Stack:
    """What a service allows: two hundred requests, and 100 bytes each."""
    return Stack(
        allowed_hosts=["127.0.0.1"],
        allowed_origins=[],
        max_body_size=100,
        limiter=RateLimiter(
            name=uuid4().hex,
            limit=200,
            window=3600,
            client=lambda: redis,
            on_outage="closed",
        ),
        registry=CollectorRegistry(),
    )


def telephony() -> FastAPI:
    """Return an application without any layer."""
    app = FastAPI()

    @app.get("/calls/{call_id}")
    async def show(call_id: int) -> float:
        return 60 / call_id

    @app.post("/voicemails")
    async def leave(request: Request) -> int:
        return len(await request.body())

    return app


def get(path: str, name: str) -> bytes:
    """Return a request with an id."""
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: {name}\r\n\r\n"
    return head.encode()


def ended(stack: Stack, route: str, status: int, method: str = "GET") -> float | None:
    """Return how many requests were counted so."""
    labels = {"method": method, "route": route, "status": str(status)}
    return stack.registry.get_sample_value("http_requests_total", labels)


def in_progress(stack: Stack) -> float | None:
    """Return the gauge."""
    return stack.registry.get_sample_value("http_requests_in_progress")


class Watched:
    """An application that tells when a request is over, however it ended."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app, self.is_over = app, asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                self.is_over.set()


async def test_answers_are_streamed_and_the_lifespan_is_run(
    stack: Stack,
) -> None:
    states = []
    may_go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        states.append("started")
        yield
        states.append("stopped")

    app = FastAPI(lifespan=lifespan)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "first"
            await may_go_on.wait()
            yield str(request_id.get())

        return StreamingResponse(lines())

    async with live_server(build_stack(app, stack)) as server:
        connection = await server.connect()
        await connection.write(
            b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: s-1\r\n\r\n"
        )
        status, _ = await connection.head()
        assert (status, await connection.chunk(), states) == (
            200,
            b"first",
            ["started"],
        )
        may_go_on.set()
        assert await connection.chunk() == b"s-1"

    assert states == ["started", "stopped"]


@pytest.mark.parametrize("declared", [b"Content-Length: 5000", b"Content-Length: 101"])
async def test_a_declared_length_above_the_limit_is_refused_before_it_is_read(
    declared: bytes, stack: Stack
) -> None:
    async with live_server(build_stack(telephony(), stack)) as server:
        connection = await server.connect()
        await connection.write(
            b"POST /voicemails HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: r-1\r\n"
            + declared
            + b"\r\n\r\n"
            + b"a" * 10
        )
        answer = await connection.answer()

    assert (answer.status, answer.values("X-Request-ID")) == (413, ["r-1"])
    assert answer.values("X-Frame-Options") == ["DENY"]


async def test_a_body_that_goes_on_after_its_declared_length_is_another_request(
    stack: Stack,
) -> None:
    async with live_server(build_stack(telephony(), stack)) as server:
        connection = await server.connect()
        await connection.write(
            b"POST /voicemails HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: r-1\r\n"
            b"Content-Length: 10\r\n\r\n" + b"a" * 1000 + b"\r\n\r\n"
        )
        answer = await connection.answer()
        broken = await connection.answer()

    assert (answer.status, answer.body) == (200, b"10")
    assert answer.values("X-Request-ID") == ["r-1"]
    assert broken.status == 400  # the server's own, for what is no request


async def test_a_chunked_body_above_the_limit_and_a_fault_have_all_headers(
    stack: Stack,
) -> None:
    async with live_server(build_stack(telephony(), stack)) as server:
        chunks = b"".join(b"50\r\n" + b"a" * 80 + b"\r\n" for _ in range(3))
        answer = await server.request(
            b"POST /voicemails HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: r-1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        )
        fault = await server.request(get("/calls/0", "r-2"))

    assert (answer.status, answer.values("X-Request-ID")) == (413, ["r-1"])
    assert (fault.status, fault.values("X-Request-ID")) == (500, ["r-2"])
    assert fault.values("X-Frame-Options") == ["DENY"]


async def test_a_client_that_hangs_up_before_its_body_has_come_is_499_once(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, request_logging.__name__)
    app = Watched(build_stack(telephony(), stack))
    async with live_server(app) as server, asyncio.timeout(PATIENCE):
        connection = await server.connect()
        await connection.write(
            b"POST /voicemails HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: r-1\r\n"
            b"Content-Length: 99\r\n\r\nshort"
        )
        connection.close()
        await app.is_over.wait()

    assert ended(stack, "/voicemails", 499, "POST") == 1
    assert in_progress(stack) == 0
    [access] = [vars(one)["access"] for one in caplog.records if "access" in vars(one)]
    assert (access["status"], access["request_id"]) == (499, "r-1")


async def test_requests_in_one_pipeline_are_answered_in_order_each_with_its_id(
    stack: Stack,
) -> None:
    names = [f"r-{number}" for number in range(1, 21)]
    async with live_server(build_stack(telephony(), stack)) as server:
        connection = await server.connect()
        await connection.write(b"".join(get(f"/calls/{one[2:]}", one) for one in names))
        answers = [await connection.answer() for _ in names]

    assert [one.values("X-Request-ID") for one in answers] == [[one] for one in names]
    assert [float(one.body) for one in answers] == [60 / n for n in range(1, 21)]
    left = [int(one.values("RateLimit-Remaining")[0]) for one in answers]
    assert left == list(range(199, 179, -1))
    assert ended(stack, "/calls/{call_id}", 200) == 20


async def test_an_exception_after_the_start_cuts_the_connection_and_is_500(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, request_logging.__name__)
    app = telephony()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "first"
            raise LookupError

        return StreamingResponse(lines())

    async with live_server(build_stack(app, stack)) as server:
        connection = await server.connect()
        await connection.write(get("/stream", "r-1"))
        status, headers = await connection.head()
        assert (status, await connection.chunk()) == (200, b"first")
        with pytest.raises(asyncio.IncompleteReadError):
            await connection.chunk()

    assert values_of(headers, "X-Request-ID") == ["r-1"]
    assert ended(stack, "/stream", 500) == 1
    assert in_progress(stack) == 0
    [access] = [vars(one)["access"] for one in caplog.records if "access" in vars(one)]
    assert (access["status"], access["error"]) == (500, "LookupError")


async def test_a_hundred_requests_at_once_have_each_its_own_id(stack: Stack) -> None:
    app, everybody_is_in = FastAPI(), asyncio.Barrier(100)

    @app.get("/")
    async def meet(request: Request) -> list[str | None]:
        await everybody_is_in.wait()
        return [request.state.request_id, request_id.get()]

    async def ask(server: LiveServer, name: str) -> None:
        answer = await server.request(get("/", name))
        assert answer.body.decode() == f'["{name}","{name}"]'
        assert answer.values("X-Request-ID") == [name]

    async with live_server(build_stack(app, stack)) as server:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(ask(server, f"r-{n}") for n in range(100)))

    assert ended(stack, "/", 200) == 100
