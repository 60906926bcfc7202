"""The request log wired into FastAPI and over a socket, and the naive way."""

import asyncio
import json
import logging
from collections.abc import Iterator
from io import StringIO
from ipaddress import ip_network
from typing import Any

import pytest
from fastapi import FastAPI, Request

from catalogue.plugin import Proof
from snippets.middleware import request_logging_naive as naive
from snippets.middleware.header_context import RequestIDMiddleware
from snippets.middleware.request_logging import LogOptions, RequestLoggingMiddleware
from snippets.middleware.request_logging_wiring import create_app, log_in_lines
from tests.support.asgi import Exchange, Receive, Scope, Send, live_server

CANARY = "canary-7f3a"
PATIENCE = 60
"""Seconds after which something hangs."""
JSON = [("Content-Type", "application/json")]


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """What the root logger has written, as the wiring formats it."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    log_in_lines(handler)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def access_of(lines: StringIO) -> list[dict[str, Any]]:
    """Return what the access records say."""
    read = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [line["access"] for line in read if line["access"]]


async def test_the_log_and_the_record_share_the_id_and_name_the_whole_route(
    lines: StringIO,
) -> None:
    async with live_server(
        create_app(trusted_proxies=[ip_network("127.0.0.1")])
    ) as server:
        answer = await server.request(
            b"GET /v1/calls/7 HTTP/1.1\r\nHost: a\r\nX-Request-ID: r-1\r\n"
            b"X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
        )
        await server.request(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")

    assert answer.values("X-Request-ID") == ["r-1"]
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    about = [line for line in said if line["request_id"] == "r-1"]
    assert [line["message"] for line in about] == [
        "call 7 is shown",
        "GET /v1/calls/7 200",
    ]
    [access] = access_of(lines)
    assert access["route"] == "/v1/calls/{call_id}"
    assert access["client"] == "203.0.113.7"


async def test_a_client_that_hangs_up_is_logged_once_as_499(lines: StringIO) -> None:
    app = FastAPI()
    is_over = asyncio.Event()

    @app.post("/calls")
    async def start(request: Request) -> int:
        return len(await request.body())

    logged = RequestIDMiddleware(RequestLoggingMiddleware(app))

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await logged(scope, receive, send)
        finally:
            is_over.set()

    async with live_server(watch) as server:
        connection = await server.connect()
        await connection.write(
            b"POST /calls HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nshort"
        )
        connection.close()
        async with asyncio.timeout(PATIENCE):
            await is_over.wait()

    [access] = access_of(lines)
    assert (access["status"], access["route"]) == (499, "/calls")


async def test_a_client_that_leaves_while_a_handler_works_has_the_handler_s_status(
    lines: StringIO,
) -> None:
    app = FastAPI()
    is_in, may_go_on, is_over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.get("/calls")
    async def show() -> int:
        is_in.set()
        await may_go_on.wait()
        return 7

    logged = RequestLoggingMiddleware(app)

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        await logged(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"
        is_over.set()

    async with live_server(watch) as server, asyncio.timeout(PATIENCE):
        connection = await server.connect()
        await connection.write(b"GET /calls HTTP/1.1\r\nHost: a\r\n\r\n")
        await is_in.wait()
        connection.close()
        await connection.writer.wait_closed()
        may_go_on.set()
        await is_over.wait()

    [access] = access_of(lines)
    assert (access["status"], access["error"]) == (200, None)


async def test_a_chunked_body_arrives_whole_and_is_logged_by_its_size(
    lines: StringIO,
) -> None:
    app = FastAPI()

    @app.post("/calls")
    async def start(request: Request) -> int:
        return len(await request.body())

    options = LogOptions(content=True, environment="test")
    async with live_server(RequestLoggingMiddleware(app, options)) as server:
        chunks = b"".join(b"%x\r\n%s\r\n" % (4000, b"a" * 4000) for _ in range(50))
        answer = await server.request(
            b"POST /calls HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunks
            + b"0\r\n\r\n"
        )

    assert answer.body == b"200000"
    [access] = access_of(lines)
    assert access["body"] == "<200000 bytes>"


async def test_an_encoded_line_feed_in_the_path_stays_in_its_line(
    lines: StringIO,
) -> None:
    async with live_server(RequestLoggingMiddleware(FastAPI())) as server:
        await server.request(b"GET /a%0d%0afaked%1b HTTP/1.1\r\nHost: a\r\n\r\n")

    [access] = access_of(lines)
    assert access["path"] == "/a\\r\\nfaked\\x1b"


def naively_logged() -> FastAPI:
    """Return an application with the naive log."""
    app = FastAPI()
    naive.add_request_log(app)

    @app.post("/users")
    async def create(request: Request) -> int:
        return len(await request.body())

    return app


async def test_the_naive_log_shows_secrets_by_another_name(
    caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    caplog.set_level(logging.INFO)
    body = f'{{"client_secret": "{CANARY}-1", "password": "masked"}}'.encode()
    exchange = Exchange("POST", f"/users?token={CANARY}-2", JSON, [body])
    await exchange.run(naively_logged())

    assert f"{CANARY}-1" in caplog.text
    assert f"{CANARY}-2" in caplog.text
    assert "masked" not in caplog.text
    proof.breaks("A body has client_secret, a query token", "both stand in the log")


async def test_the_naive_log_holds_the_whole_body_before_the_handler_starts(
    proof: Proof,
) -> None:
    app = FastAPI()
    naive.add_request_log(app)
    asked: list[int] = []

    @app.post("/users")
    async def create() -> None:
        asked.append(exchange.received)

    exchange = Exchange("POST", "/users", body=[b"a" * 2000] * 100)
    await exchange.run(app)

    assert asked == [100]
    proof.breaks(
        "A client sends 200,000 bytes in chunks", "all are held before the route runs"
    )


@pytest.mark.parametrize("body", [b"[1]", b"7"])
async def test_the_naive_log_fails_requests(body: bytes, proof: Proof) -> None:
    exchange = Exchange("POST", "/users", JSON, [body])
    with pytest.raises((TypeError, IndexError)):
        await exchange.run(naively_logged())

    assert exchange.status == 500
    proof.breaks("A body is JSON, but no object", "the request fails with status 500")


async def test_the_naive_log_believes_the_client(
    caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    caplog.set_level(logging.INFO)
    headers = [("X-Forwarded-For", "10.9.9.9, 203.0.113.7")]
    await Exchange("POST", "/users", headers).run(naively_logged())

    assert caplog.messages[0].startswith("10.9.9.9 POST")
    proof.breaks(
        "A client writes X-Forwarded-For", "the log says that it is who it says"
    )


async def test_the_naive_log_has_no_record_of_a_request_that_failed(
    caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    caplog.set_level(logging.INFO)
    app = naively_logged()

    @app.get("/fails")
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await Exchange(path="/fails").run(app)

    assert [one for one in caplog.records if one.name == naive.__name__] == []
    proof.breaks("The handler raises", "there is no record at all")
