"""The whole edge, and a websocket that a library opens over a socket of uvicorn."""

import logging
from collections.abc import AsyncIterator
from functools import partial
from json import loads
from uuid import uuid4

import pytest
from fastapi import FastAPI, HTTPException, WebSocket, WebSocketException
from prometheus_client import CollectorRegistry, generate_latest
from redis.asyncio import Redis
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus

from snippets.errors.problem_details import install_problem_handlers
from snippets.errors.safe_errors import install_safety_net
from snippets.errors.validation_problems import install_validation_handler
from snippets.middleware.header_context import correlation_id, request_id
from snippets.middleware.middleware_order import Stack, build_stack
from snippets.middleware.rate_limiter import RateLimiter
from tests.support.asgi import LiveServer, live_server
from tests.support.counters import count_round_trips
from tests.support.problems import CANARY, PROBLEM

ASKED = {"X-Request-ID": "r-1", "X-Correlation-ID": "c-1"}
HIDDEN = "X-Frame-Options", "Content-Security-Policy", "X-Content-Type-Options"


@pytest.fixture
def stack(redis: Redis) -> Stack:
    """All layers, and a limit that lets no HTTP request pass."""
    return Stack(
        allowed_hosts=["127.0.0.1"],
        allowed_origins=[],
        max_body_size=10,
        limiter=RateLimiter(
            name=uuid4().hex,
            limit=0,
            window=60,
            client=lambda: redis,
            on_outage="closed",
        ),
        registry=CollectorRegistry(),
        net=partial(install_safety_net, environment="production"),
    )


@pytest.fixture
async def server(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[LiveServer]:
    """A service that takes calls, and refuses some."""
    caplog.set_level(logging.INFO, "snippets")
    app = FastAPI()
    install_problem_handlers(app)
    install_validation_handler(app)

    @app.websocket("/ring")
    async def ring(websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"x-request-id", b"of the handler")])
        ids = websocket.state.request_id, request_id.get(), correlation_id.get()
        await websocket.send_text(" ".join(map(str, ids)))
        with pytest.raises(WebSocketDisconnect):
            await websocket.receive_text()

    @app.websocket("/long")
    async def long(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(f"{len(await websocket.receive_text())} were read")

    @app.websocket("/refused")
    async def refuse(websocket: WebSocket) -> None:
        await websocket.close(1008)

    @app.websocket("/unknown-caller")
    async def unknown(_: WebSocket) -> None:
        raise WebSocketException(1008, CANARY)

    @app.websocket("/private")
    async def private(_: WebSocket) -> None:
        raise HTTPException(401, "who are you")

    @app.websocket("/calls/{call_id}")
    async def call(_: WebSocket, call_id: int) -> None:
        raise ConnectionError(CANARY, call_id)

    async with live_server(build_stack(app, stack)) as server:
        yield server


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the names of the loggers of which there are records."""
    return [one.name for one in caplog.records if one.name.startswith("snippets")]


async def refused(server: LiveServer, path: str) -> tuple[int, Headers]:
    """Return the status and the headers of a handshake that fails."""
    with pytest.raises(InvalidStatus) as raised:
        async with connect(f"{url(server)}{path}", additional_headers=ASKED):
            pass
    assert CANARY.encode() not in raised.value.response.body
    return raised.value.response.status_code, raised.value.response.headers


def url(server: LiveServer) -> str:
    """Return where a websocket is opened."""
    return server.url.replace("http", "ws")


async def test_a_handshake_has_its_ids_and_nothing_of_what_is_for_pages(
    server: LiveServer, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    with count_round_trips() as trips:
        async with connect(f"{url(server)}/ring", additional_headers=ASKED) as socket:
            said = await socket.recv()
            assert socket.response is not None
            headers = socket.response.headers

    assert said == "r-1 r-1 c-1"
    for name, value in ASKED.items():
        assert headers.get_all(name) == [value]
    for name in (*HIDDEN, "RateLimit-Limit"):
        assert headers.get_all(name) == []
    assert trips.total == 0
    assert told(caplog) == []
    assert "http_requests_total{" not in generate_latest(stack.registry).decode()


async def test_messages_are_not_limited_as_bodies_are(server: LiveServer) -> None:
    async with connect(f"{url(server)}/long") as socket:
        await socket.send("a" * 1000)
        assert await socket.recv() == "1000 were read"


async def test_each_of_two_connections_has_ids_of_its_own(server: LiveServer) -> None:
    async with (
        connect(f"{url(server)}/ring") as first,
        connect(f"{url(server)}/ring") as second,
    ):
        ids = [str(await socket.recv()).split() for socket in (first, second)]

    assert len({one for three in ids for one in three}) == 4


@pytest.mark.parametrize(
    "path", ["/refused", "/unknown-caller", "/nothing", "/calls/x"]
)
async def test_who_is_refused_before_the_handshake_ends_is_told_403(
    path: str, server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers = await refused(server, path)

    assert (status, headers.get_all("X-Frame-Options")) == (403, [])
    assert told(caplog) == []


async def test_a_wrong_host_is_refused_with_the_ids(server: LiveServer) -> None:
    answer = await server.request(
        b"GET /ring HTTP/1.1\r\nHost: elsewhere\r\nX-Request-ID: r-1\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )

    assert (answer.status, answer.values("X-Request-ID")) == (400, ["r-1"])


async def test_an_http_error_before_the_handshake_is_a_problem_with_the_ids(
    server: LiveServer,
) -> None:
    with pytest.raises(InvalidStatus) as raised:
        async with connect(f"{url(server)}/private", additional_headers=ASKED):
            pass

    response = raised.value.response
    assert response.status_code == 401
    assert response.headers["Content-Type"] == PROBLEM
    assert response.headers["X-Request-ID"] == "r-1"
    assert loads(response.body)["request_id"] == "r-1"


async def test_an_unhandled_error_is_the_server_s_to_answer_and_to_log(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers = await refused(server, "/calls/7")

    assert (status, headers.get_all("X-Request-ID")) == (500, [])
    [record] = [one for one in caplog.records if one.exc_info]
    assert record.name == "uvicorn.error"
    assert told(caplog) == []
