"""Over a socket of uvicorn: bodies that are chunked, lie, or end early."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect

from snippets.middleware.body_limit import BodyLimitMiddleware
from snippets.middleware.header_context import RequestIDMiddleware
from tests.support.asgi import LiveServer, Receive, Scope, Send, live_server

LIMIT = 1000
PATIENCE = 60
"""Seconds after which something hangs."""


class Service:
    """An application with a limit, and what its handler saw."""

    def __init__(self) -> None:
        """Add the routes."""
        self.read = 0
        self.gone = asyncio.Event()
        self.app = FastAPI()
        self.app.add_middleware(BodyLimitMiddleware, max_body_size=LIMIT)
        self.app.add_middleware(RequestIDMiddleware)

        @self.app.post("/count")
        async def count(request: Request) -> int:
            self.read = 0
            try:
                async for chunk in request.stream():
                    self.read += len(chunk)
            except ClientDisconnect:
                self.gone.set()
                raise
            return self.read

        self.app.mount("/echo", echo)


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    """Send back each chunk as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        chunk = (await receive())["body"]
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


@pytest.fixture
def service() -> Service:
    """A service whose handler has seen nothing."""
    return Service()


@pytest.fixture
async def server(service: Service) -> AsyncIterator[LiveServer]:
    """The service on a socket."""
    async with live_server(service.app) as server:
        yield server


def head(*lines: str, path: str = "/count") -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def chunk(size: int) -> bytes:
    """Return a chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (size, b"a" * size)


CHUNKED = head("Transfer-Encoding: chunked")


async def test_a_chunked_body_of_the_limit_passes(server: LiveServer) -> None:
    answer = await server.request(CHUNKED + chunk(600) + chunk(400) + b"0\r\n\r\n")

    assert (answer.status, answer.body) == (200, b"1000")


@pytest.mark.parametrize("chunks", [[600, 401], [1001], [1] * 1001])
async def test_a_chunked_body_of_one_byte_more_is_refused(
    server: LiveServer, chunks: list[int]
) -> None:
    body = b"".join(map(chunk, chunks))
    answer = await server.request(CHUNKED + body + b"0\r\n\r\n")

    assert answer.status == 413
    assert answer.values("content-type") == ["application/problem+json"]
    problem = json.loads(answer.body)
    assert problem["detail"] == "the body may have 1000 bytes at most"
    assert [problem["request_id"]] == answer.values("x-request-id")


async def test_who_never_ends_is_refused_while_still_sending(
    server: LiveServer, service: Service
) -> None:
    connection = await server.connect()
    await connection.write(CHUNKED + chunk(700))
    await connection.write(chunk(700))  # and no end

    async with asyncio.timeout(PATIENCE):
        answer = await connection.answer()

    assert answer.status == 413
    assert service.read <= LIMIT


async def test_a_declared_length_is_refused_before_a_byte_was_sent(
    server: LiveServer, service: Service
) -> None:
    answer = await server.request(head("Content-Length: 1001"))

    assert answer.status == 413
    assert service.read == 0
    assert len(answer.values("x-request-id")) == 1


async def test_bytes_beyond_the_declared_length_are_no_part_of_the_body(
    server: LiveServer,
) -> None:
    connection = await server.connect()
    await connection.write(head("Content-Length: 5") + b"a" * 5000 + b"\r\n\r\n")

    assert (await connection.answer()).body == b"5"
    second = (
        await connection.answer()
    )  # they are taken for a request, which they are not
    assert second.status == 400


@pytest.mark.parametrize("length", ["abc", "-1", "1e3", "5, 6", "9" * 5000])
async def test_a_malformed_length_is_refused_by_the_server(
    server: LiveServer, service: Service, length: str
) -> None:
    answer = await server.request(head(f"Content-Length: {length}") + b"a" * 5)

    assert answer.status == 400
    assert service.read == 0


async def test_a_client_that_leaves_early_leaves_the_service_well(
    server: LiveServer, service: Service
) -> None:
    connection = await server.connect()
    await connection.write(head("Content-Length: 900") + b"a" * 500)
    connection.close()
    async with asyncio.timeout(PATIENCE):
        await service.gone.wait()

    answer = await server.request(head("Content-Length: 3") + b"abc")
    assert (answer.status, answer.body) == (200, b"3")


async def test_after_the_start_of_the_response_the_connection_is_cut(
    server: LiveServer,
) -> None:
    connection = await server.connect()
    await connection.write(
        head("Transfer-Encoding: chunked", path="/echo/") + chunk(600)
    )
    status, _ = await connection.head()
    assert (status, await connection.chunk()) == (200, b"a" * 600)

    await connection.write(chunk(600))
    async with asyncio.timeout(PATIENCE):
        rest = await connection.reader.read()

    assert rest == b""  # neither the end of the body nor a second answer
