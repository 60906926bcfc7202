"""The ids in FastAPI: in its own errors, behind the response, and in the naive way."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from threading import Thread

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse

from catalogue.plugin import Proof
from snippets.middleware import header_context_naive as naive
from snippets.middleware.header_context import (
    RequestIDMiddleware,
    request_id,
)
from snippets.middleware.header_context_wiring import create_app, log_with_ids, report
from tests.support.asgi import Exchange, live_server

logger = logging.getLogger("telephony")
MINE = [("X-Request-ID", "mine")]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the root logger has written, as the wiring formats it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    log_with_ids(handler)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def calls() -> FastAPI:
    """Return an application that can go wrong in every way."""
    app = FastAPI(max_body_size=10)

    async def log_and_report(request: Request, error: Exception) -> Response:
        logger.warning("failed")
        return await report(request, error)

    for kind in (HTTPException, RequestValidationError, 404, 405, 413, Exception):
        app.add_exception_handler(kind, log_and_report)

    @app.get("/calls/{call_id}")
    async def show(call_id: int) -> int:
        logger.warning("shown")
        if call_id == 429:
            raise HTTPException(429, headers={"Retry-After": "1"})
        return 1 // call_id

    @app.post("/calls")
    async def start(request: Request) -> int:
        return len(await request.body())

    return app


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/calls/7", [], 200),
        ("GET", "/nothing", [], 404),
        ("DELETE", "/calls/7", [], 405),
        ("POST", "/calls", [b"a" * 8, b"a" * 8], 413),
        ("GET", "/calls/seven", [], 422),
        ("GET", "/calls/429", [], 429),
        ("GET", "/calls/0", [], 500),
    ],
)
async def test_every_status_has_the_id_in_header_body_and_log(
    method: str, path: str, body: list[bytes], status: int, log: io.StringIO
) -> None:
    exchange = Exchange(method, path, MINE, body)
    app = RequestIDMiddleware(calls())
    if status == 500:
        with pytest.raises(ZeroDivisionError):
            await exchange.run(app)
    else:
        await exchange.run(app)

    assert exchange.status == status
    assert exchange.values("X-Request-ID") == ["mine"]
    assert exchange.body == b"0" or b'"request_id":"mine"' in exchange.body
    lines = [one for one in log.getvalue().splitlines() if "WARNING" in one]
    assert lines
    assert all(line.startswith("mine - WARNING") for line in lines)


async def test_inside_the_application_the_unhandled_error_has_no_header() -> None:
    app = calls()
    app.add_middleware(RequestIDMiddleware)
    exchange = Exchange(path="/calls/0", headers=MINE)
    with pytest.raises(ZeroDivisionError):
        await exchange.run(app)

    assert (exchange.status, exchange.values("X-Request-ID")) == (500, [])


async def test_the_handler_a_background_task_a_thread_and_a_stream_see_the_id() -> None:
    app = FastAPI()
    seen: dict[str, str | None] = {}

    def note(where: str) -> None:
        seen[where] = request_id.get()

    async def note_in_a_task() -> None:
        note("background task")

    def note_in_a_plain_thread() -> None:
        thread = Thread(target=note, args=("plain thread",))
        thread.start()
        thread.join()

    @app.get("/")
    async def show(request: Request, after: BackgroundTasks) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            note("stream")
            yield "line"

        seen["state"] = request.state.request_id
        note("handler")
        await asyncio.to_thread(note, "asyncio thread")
        note_in_a_plain_thread()
        after.add_task(note, "background thread")
        after.add_task(note_in_a_task)
        return StreamingResponse(lines())

    @app.get("/sync")
    def show_in_the_pool() -> None:
        note("sync handler")

    for path in ("/", "/sync"):
        await Exchange(path=path, headers=MINE).run(RequestIDMiddleware(app))

    assert seen.pop("plain thread") is None
    assert seen == dict.fromkeys(seen, "mine")
    assert len(seen) == 7


async def test_the_wired_service_names_the_call_in_its_log_and_at_the_other_service(
    log: io.StringIO,
) -> None:
    asked: list[httpx.Request] = []

    def billing(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(500 if request.url.path == "/prices/8" else 200, text="1")

    app = create_app(httpx.MockTransport(billing))
    both = {"X-Request-ID": "r-1", "X-Correlation-ID": "order-66"}
    async with live_server(app) as server, httpx.AsyncClient() as http:
        answer = await http.get(f"{server.url}/calls/7/price", headers=both)
        failed = await http.get(f"{server.url}/calls/8/price", headers=both)
        refused = await http.get(f"{server.url}/calls/x/price", headers=both)
        nowhere = await http.get(f"{server.url}/nowhere", headers=both)

    assert answer.json() == "1"
    assert answer.headers["X-Request-ID"] == "r-1"
    assert asked[0].headers.get_list("X-Correlation-ID") == ["order-66"]
    assert "X-Request-ID" not in asked[0].headers
    assert "r-1 order-66 INFO the price of call 7 was shown\n" in log.getvalue()
    for status, one in ((502, failed), (422, refused), (404, nowhere)):
        assert one.json() == {"status": status, "request_id": "r-1"}


async def test_the_naive_way_sends_two_headers(proof: Proof) -> None:
    app = FastAPI()
    naive.add_request_id(app)

    @app.get("/")
    async def show() -> StreamingResponse:
        return StreamingResponse(iter(()), headers={"X-Request-ID": "the-handlers"})

    exchange = await Exchange(headers=MINE).run(app)

    assert exchange.values("X-Request-ID") == ["the-handlers", "mine"]
    proof.breaks("The handler sets the header too", "the answer has it twice")


@pytest.mark.parametrize("value", [b"a" * 5000, b"a\x1b[31mred"])
async def test_the_naive_way_echoes_what_it_is_sent(value: bytes, proof: Proof) -> None:
    app = FastAPI()
    naive.add_request_id(app)
    exchange = await Exchange(headers=[("X-Request-ID", value)]).run(app)

    assert exchange.values("X-Request-ID") == [value.decode("latin-1")]
    kind = "5,000 characters" if len(value) > 99 else "an escape sequence"
    proof.breaks(f"A client sends {kind}", "answer and log repeat it")


async def test_the_naive_way_forgets_the_id_when_another_application_is_called(
    proof: Proof,
) -> None:
    inner, outer = FastAPI(), FastAPI()
    naive.add_request_id(inner)
    naive.add_request_id(outer)
    seen = []

    @outer.get("/")
    async def call_the_other() -> None:
        seen.append(naive.request_id.get())
        await Exchange(headers=[("X-Request-ID", "inner")]).run(inner)
        seen.append(naive.request_id.get())

    await Exchange(headers=MINE).run(outer)

    assert seen == ["mine", None]
    proof.breaks("A handler calls another application in process", "its own id is gone")


async def test_the_naive_way_leaves_an_unhandled_error_without_an_id(
    proof: Proof,
) -> None:
    app = FastAPI()
    naive.add_request_id(app)

    @app.get("/")
    async def fail() -> None:
        raise LookupError

    exchange = Exchange(headers=MINE)
    with pytest.raises(LookupError):
        await exchange.run(app)

    assert (exchange.status, exchange.values("X-Request-ID")) == (500, [])
    proof.breaks("The handler raises", "the 500 has no id")
