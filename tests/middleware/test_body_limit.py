"""Bytes are counted as they are read, and each refusal is the same problem document."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from catalogue.plugin import Proof
from snippets.middleware.body_limit import BodyLimitMiddleware
from snippets.middleware.body_limit_naive import SizeLimitMiddleware
from snippets.middleware.body_limit_wiring import create_app
from snippets.middleware.header_context import RequestIDMiddleware
from tests.support.asgi import Exchange, Message, Receive, Scope, Send, websocket_scope

LIMIT = 100
MULTIPART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
END = b"\r\n--b--\r\n"

Headers = list[tuple[str, str | bytes]]


class Greeting(BaseModel):
    """What is said before the tone."""

    text: str


def telephony() -> FastAPI:
    """Return an application that reads bodies in all the ways there are."""
    app = FastAPI()
    app.add_middleware(BodyLimitMiddleware, max_body_size=LIMIT)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.post("/model")
    async def model(greeting: Greeting) -> int:
        return len(greeting.text)

    @app.post("/file")
    async def file(file: UploadFile) -> int | None:
        return file.size

    @app.post("/form")
    async def form(request: Request) -> int:
        return len(await request.form())

    @app.post("/unread")
    async def unread() -> str:
        return "not read"

    @app.post("/large", max_body_size=10 * LIMIT)
    async def large(request: Request) -> int:
        return len(await request.body())

    @app.post("/small", max_body_size=LIMIT // 10)
    async def small(request: Request) -> int:
        return len(await request.body())

    return app


@pytest.fixture
def app() -> FastAPI:
    """An application with a limit."""
    return telephony()


async def post(
    app: FastAPI | BodyLimitMiddleware,
    path: str,
    *chunks: bytes,
    length: str | None = None,
    kind: str = "application/json",
) -> Exchange:
    """Send a body in chunks, with a `Content-Length` or without."""
    headers: Headers = [("Content-Type", kind)]
    if length is not None:
        headers.append(("Content-Length", length))
    return await Exchange("POST", path, headers, chunks).run(app)


def assert_refused(answer: Exchange, limit: int = LIMIT) -> None:
    """Require the one document that says so."""
    assert answer.status == 413
    assert answer.values("content-type") == ["application/problem+json"]
    assert answer.values("content-length") == [str(len(answer.body))]
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": f"the body may have {limit} bytes at most",
        "instance": answer.scope["path"],
    }


@pytest.mark.parametrize("length", [None, str(LIMIT)])
async def test_a_body_of_exactly_the_limit_passes(
    app: FastAPI, length: str | None
) -> None:
    answer = await post(app, "/raw", b"a" * LIMIT, length=length)

    assert (answer.status, answer.body) == (200, b"100")


@pytest.mark.parametrize(
    "length", [None, str(LIMIT + 1), "1", "abc", "-1", "", "9" * 9]
)
@pytest.mark.parametrize("path", ["/raw", "/model", "/file", "/form"])
async def test_one_byte_more_is_refused_however_it_is_declared_and_read(
    app: FastAPI, path: str, length: str | None
) -> None:
    if path in ("/file", "/form"):
        body = MULTIPART + b"a" * (LIMIT + 1 - len(MULTIPART) - len(END)) + END
        kind = "multipart/form-data; boundary=b"
    else:
        body, kind = b'{"text":"' + b"a" * (LIMIT - 10) + b'"}', "application/json"

    assert len(body) == LIMIT + 1
    assert_refused(await post(app, path, body, length=length, kind=kind))


async def test_reading_stops_at_the_chunk_that_is_too_much(
    app: FastAPI, proof: Proof
) -> None:
    answer = await post(app, "/raw", *[b"a" * 30] * 1000)

    assert_refused(answer)
    assert answer.received == 4
    proof.cost(
        "1,000 chunks of 30 bytes, at a limit of 100", chunks_read=answer.received
    )


async def test_of_a_declared_length_that_is_too_large_nothing_is_read(
    app: FastAPI, proof: Proof
) -> None:
    answer = await post(app, "/raw", b"a" * 500, length="500")

    assert_refused(answer)
    assert answer.received == 0
    proof.cost("a declared length above the limit", chunks_read=answer.received)


async def test_a_handler_that_does_not_read_is_charged_only_what_was_declared() -> None:
    app, runs = telephony(), 0

    @app.post("/delete")
    async def delete() -> None:
        nonlocal runs
        runs += 1

    assert (await post(app, "/delete", *[b"a" * 90] * 9)).status == 200
    assert_refused(await post(app, "/delete", b"a" * 500, length="500"))
    assert runs == 2  # it had no chance to know


@pytest.mark.parametrize(("path", "limit"), [("/large", 1000), ("/small", 10)])
async def test_a_route_may_allow_more_or_less(
    app: FastAPI, path: str, limit: int
) -> None:
    for length in (None, str(limit)):
        assert (await post(app, path, b"a" * limit, length=length)).status == 200
    for length in (None, str(limit + 1)):
        answer = await post(app, path, b"a" * (limit + 1), length=length)
        assert_refused(answer, limit)


async def test_a_router_and_a_mounted_application_may_too(app: FastAPI) -> None:
    router = APIRouter(prefix="/router", max_body_size=10)
    sub = FastAPI(max_body_size=20)

    @router.post("/raw")
    @sub.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    app.include_router(router)
    app.mount("/sub", sub)
    for path, limit in (("/router/raw", 10), ("/sub/raw", 20)):
        assert (await post(app, path, b"a" * limit)).status == 200
        assert_refused(await post(app, path, b"a" * (limit + 1)), limit)
        length = str(limit + 1)
        assert_refused(await post(app, path, b"a" * (limit + 1), length=length), limit)


async def test_a_limit_of_0_allows_only_an_empty_body() -> None:
    app = FastAPI()
    app.add_middleware(BodyLimitMiddleware, max_body_size=0)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    assert (await post(app, "/raw")).status == 200
    assert_refused(await post(app, "/raw", b"a"), 0)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 is not a number of bytes"):
        BodyLimitMiddleware(FastAPI(), max_body_size=-1)


async def test_the_instance_of_a_refusal_is_a_path_and_never_a_host(
    app: FastAPI,
) -> None:
    for path, instance in {
        "//evil.example/x": "/evil.example/x",
        "/a\r\n<b>": "/a%0D%0A%3Cb%3E",
    }.items():
        answer = await post(app, path, length="500")
        assert (answer.status, json.loads(answer.body)["instance"]) == (413, instance)


@pytest.mark.parametrize("length", [None, "500"])
async def test_a_refusal_has_the_request_id_in_body_and_header(
    app: FastAPI, length: str | None
) -> None:
    app.add_middleware(RequestIDMiddleware)

    answer = await post(app, "/raw", b"a" * 500, length=length)

    [request_id] = answer.values("x-request-id")
    assert answer.values("content-type") == ["application/problem+json"]
    assert json.loads(answer.body)["request_id"] == request_id


@pytest.mark.parametrize("length", [None, "500"])
async def test_around_a_finished_application_it_unifies_that_application_s_own_limit(
    length: str | None,
) -> None:
    app = FastAPI(max_body_size=50)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    wrapped = BodyLimitMiddleware(app, max_body_size=LIMIT)

    assert_refused(await post(wrapped, "/raw", b"a" * 500, length=length), 50)


async def test_alone_the_framework_answers_in_two_ways_and_one_without_the_id(
    proof: Proof,
) -> None:
    app = FastAPI(max_body_size=LIMIT)
    app.add_middleware(RequestIDMiddleware)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    declared = await post(app, "/raw", b"a" * 500, length="500")
    counted = await post(app, "/raw", b"a" * 500)

    assert declared.values("content-type") == ["text/plain; charset=utf-8"]
    assert counted.values("content-type") == ["application/json"]
    assert not declared.values("x-request-id")
    assert counted.values("x-request-id")
    proof.breaks(
        "FastAPI's `max_body_size` refuses a declared and a counted length",
        "one is plain text without a request id, the other JSON with it",
    )


async def test_a_413_with_other_words_is_left_as_it_is(app: FastAPI) -> None:
    @app.post("/voicemail")
    async def leave() -> None:
        raise HTTPException(413, "longer than three minutes")

    async def stream() -> AsyncIterator[bytes]:
        for word in (b"Content", b" Too", b" Long"):
            yield word

    @app.post("/stream")
    async def streamed() -> StreamingResponse:
        return StreamingResponse(stream(), 413)

    answer = await post(app, "/voicemail")
    assert answer.body == b'{"detail":"longer than three minutes"}'
    assert answer.values("content-type") == ["application/json"]
    assert answer.values("content-length") == [str(len(answer.body))]
    answer = await post(app, "/stream")
    assert answer.chunks == [b"Content", b" Too", b" Long", b""]


async def test_after_the_start_of_the_response_the_exception_goes_up(
    app: FastAPI,
) -> None:
    async def echo(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            chunk = (await receive())["body"]
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    app.mount("/echo", echo)
    exchange = Exchange("POST", "/echo/", [], [b"a" * 60] * 5)
    with pytest.raises(RuntimeError, match="response already started"):
        await exchange.run(app)

    assert exchange.status == 200
    assert exchange.chunks == [b"a" * 60]


async def test_a_stream_is_passed_on_as_it_comes(app: FastAPI) -> None:
    may_end = asyncio.Event()

    async def voicemail() -> AsyncIterator[bytes]:
        yield b"first"
        await may_end.wait()
        yield b"last"

    @app.get("/voicemail")
    async def listen() -> StreamingResponse:
        return StreamingResponse(voicemail())

    exchange = Exchange("GET", "/voicemail")
    request = asyncio.create_task(exchange.run(app))
    await exchange.until(lambda sent: len(sent) == 2)
    assert exchange.chunks == [b"first"]
    may_end.set()
    await request
    assert exchange.body == b"firstlast"


async def test_websockets_and_lifespan_pass_untouched() -> None:
    seen: list[tuple[str, Receive, Send]] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["type"], receive, send))

    app, exchange = BodyLimitMiddleware(inner, max_body_size=1), Exchange()
    for scope in (websocket_scope(), {"type": "lifespan"}):
        await app(scope, exchange.receive, exchange.send)

    pair = exchange.receive, exchange.send
    assert seen == [("websocket", *pair), ("lifespan", *pair)]


async def test_a_websocket_may_be_told_more_than_the_limit(app: FastAPI) -> None:
    told: list[int] = []

    @app.websocket("/events")
    async def events(socket: WebSocket) -> None:
        await socket.accept()
        told.append(len(await socket.receive_bytes()))

    messages: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "bytes": b"a" * 500},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    await app(websocket_scope("/events"), receive, Exchange().send)

    assert told == [500]


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/events/calls", 1024), ("/extensions", 16384), ("/voicemails", 524288)],
)
@pytest.mark.parametrize("how", ["declared", "counted"])
async def test_as_wired_each_route_has_its_limit_and_each_refusal_its_id(
    path: str, limit: int, how: str
) -> None:
    app = create_app()
    if path == "/voicemails":
        kind = "multipart/form-data; boundary=b"
        start = MULTIPART.replace(b'"file"', b'"recording"')
        fitting = start + b"a" * (limit - len(start) - len(END)) + END
    else:
        kind = "application/json"
        fitting = b'{"number":"1001"}'.ljust(limit)
    answers = [
        await post(
            app,
            path,
            body,
            length=str(len(body)) if how == "declared" else None,
            kind=kind,
        )
        for body in (fitting, fitting + b" ")
    ]

    assert [answer.status for answer in answers] == [200, 413]
    assert len(answers[0].values("x-request-id")) == 1
    problem = json.loads(answers[1].body)
    assert [problem["request_id"]] == answers[1].values("x-request-id")


async def test_the_naive_version_lets_pass_what_does_not_say_how_long_it_is(
    proof: Proof,
) -> None:
    app = FastAPI()
    app.add_middleware(SizeLimitMiddleware, max_size=LIMIT)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    answer = await post(app, "/raw", *[b"a" * 26] * 5)

    assert (answer.status, answer.body) == (200, b"130")
    proof.breaks(
        "A chunked body of 1.3 times the limit", "it is read whole, and answered by 200"
    )


async def test_the_naive_version_fails_at_a_length_that_is_no_number(
    proof: Proof,
) -> None:
    app = FastAPI()
    app.add_middleware(SizeLimitMiddleware)

    with pytest.raises(ValueError, match="invalid literal"):
        await post(app, "/raw", b"a", length="abc")
    proof.breaks("`Content-Length: abc`", "an unhandled exception: status 500")
