"""The ids over a socket of uvicorn: what a client can really send."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from snippets.middleware.header_context import (
    CorrelationIDMiddleware,
    RequestIDMiddleware,
    request_id,
)
from tests.support.asgi import Receive, Scope, Send, live_server

PATIENCE = 60
"""Seconds after which something hangs."""


def ids(app: FastAPI) -> RequestIDMiddleware:
    """Wrap an application that answers with the id that it sees."""

    @app.api_route("/", methods=["GET", "POST"])
    async def show(request: Request) -> list[str | None]:
        await request.body()
        return [request.state.request_id, request_id.get()]

    return RequestIDMiddleware(CorrelationIDMiddleware(app))


async def test_pipelined_requests_are_answered_with_their_own_ids() -> None:
    async with live_server(ids(FastAPI())) as server:
        connection = await server.connect()
        names = [f"request-{number}" for number in range(5)]
        for name in names:
            request = f"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: {name}\r\n\r\n"
            connection.writer.write(request.encode())
        answers = [await connection.answer() for _ in names]

    assert [one.values("x-request-id") for one in answers] == [[one] for one in names]
    assert [one.body for one in answers] == [
        f'["{one}","{one}"]'.encode() for one in names
    ]


async def test_duplicate_headers_of_the_client_give_one_of_the_answer() -> None:
    async with live_server(ids(FastAPI())) as server:
        answer = await server.request(
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: not this\r\n"
            b"x-request-id: first\r\nX-REQUEST-ID: second\r\n\r\n"
        )

    assert answer.values("x-request-id") == ["first"]
    assert answer.body == b'["first","first"]'


async def test_bytes_outside_ascii_and_long_values_are_replaced() -> None:
    async with live_server(ids(FastAPI())) as server:
        for value in (b"\xe9\xe8", b"a" * 5000, b"a%0d%0ab", b"a\tb"):
            answer = await server.request(
                b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: " + value + b"\r\n\r\n"
            )
            [chosen] = answer.values("x-request-id")
            assert (answer.status, len(chosen)) == (200, 32)
            assert answer.body == f'["{chosen}","{chosen}"]'.encode()


async def test_a_streamed_answer_arrives_chunk_by_chunk() -> None:
    app = FastAPI()
    may_go_on = asyncio.Event()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "first"
            await may_go_on.wait()
            yield str(request_id.get())

        return StreamingResponse(lines())

    async with live_server(ids(app)) as server:
        connection = await server.connect()
        await connection.write(
            b"GET /stream HTTP/1.1\r\nHost: a\r\nX-Request-ID: s-1\r\n\r\n"
        )
        status, _ = await connection.head()
        assert (status, await connection.chunk()) == (200, b"first")
        may_go_on.set()
        assert await connection.chunk() == b"s-1"


async def test_a_body_that_ends_too_early_ends_the_request_and_its_context() -> None:
    seen: list[str | None] = []
    is_over = asyncio.Event()
    wrapped = ids(FastAPI())

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await wrapped(scope, receive, send)
        finally:
            seen.append(request_id.get())
            is_over.set()

    async with live_server(watch) as server:
        connection = await server.connect()
        await connection.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nshort"
        )
        connection.close()
        async with asyncio.timeout(PATIENCE):
            await is_over.wait()
        answer = await server.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    assert seen[0] is None
    assert answer.status == 200
