"""What leaves an application with a safety net when something goes wrong in it."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.background import BackgroundTask
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catalogue.plugin import Proof
from snippets.errors import safe_errors_naive
from snippets.errors.problem_details import install_problem_handlers
from snippets.errors.safe_errors import (
    ResponseCutOffError,
    SafetyNet,
    install_safety_net,
)
from tests.support.problems import (
    CANARY,
    PROBLEM,
    Exchange,
    client_of,
    log_text,
    problem,
    records,
)

Raise = Callable[[], Exception]


def plain() -> Exception:
    """Return an exception whose text and arguments are secret."""
    return RuntimeError(f"postgresql://pbx:{CANARY}@db", CANARY)


def caused() -> Exception:
    """Return one whose cause, context and notes are."""
    error = LookupError("directory")
    error.__cause__ = ConnectionError(CANARY)
    error.__context__ = OSError(CANARY)
    error.add_note(CANARY)
    return error


def grouped() -> Exception:
    """Return one that holds others."""
    return ExceptionGroup(CANARY, [ValueError(CANARY)])


def status_500() -> Exception:
    """Return one that the framework answers."""
    return HTTPException(500, {"dsn": CANARY}, headers={"X-Error": CANARY})


RAISED: list[Raise] = [plain, caused, grouped, status_500]


async def failing_sql() -> None:
    """Send a statement that fails, with a secret among its parameters."""
    engine = create_async_engine("sqlite+aiosqlite://")
    try:
        async with engine.connect() as connection:
            statement = text("SELECT * FROM users WHERE pin = :pin")
            await connection.execute(statement, {"pin": CANARY})
    finally:
        await engine.dispose()


@pytest.fixture
def app() -> FastAPI:
    """An application whose errors are problem documents."""
    app = FastAPI(max_body_size=10)
    install_problem_handlers(app)

    @app.post("/voicemails")
    async def store(request: Request) -> int:
        return len(await request.body())

    return app


@pytest.fixture
def net(app: FastAPI) -> ASGIApp:
    """The application within its safety net."""
    return install_safety_net(app, environment="production")


@pytest.fixture
async def client(net: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with client_of(net) as client:
        yield client


def fails(app: FastAPI, make: Raise, path: str = "/fails") -> None:
    """Give an application a route that raises."""

    async def fail() -> None:
        raise make()

    app.add_api_route(path, fail, methods=["GET", "HEAD"])


@pytest.mark.parametrize("make", RAISED)
async def test_no_secret_of_an_exception_is_in_the_answer(
    app: FastAPI, client: httpx.AsyncClient, make: Raise
) -> None:
    fails(app, make)
    response = await client.get("/fails")
    problem(response, 500)
    assert CANARY not in response.text + str(response.headers)


async def test_no_parameter_of_a_statement_is_in_the_answer(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    app.add_api_route("/fails", failing_sql)
    response = await client.get("/fails")
    problem(response, 500)
    assert CANARY not in response.text + str(response.headers)
    assert "no such table" in log_text(caplog)


async def test_all_500s_are_the_same_but_for_the_instance_and_the_id(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    for number, make in enumerate(RAISED):
        fails(app, make, f"/{number}")
    app.add_api_route("/sql", failing_sql)
    app.add_api_route("/plain", lambda: PlainTextResponse(CANARY, 500))
    app.add_api_route("/json", lambda: JSONResponse({"detail": CANARY}, 500))

    documents = []
    for path in ("0", "1", "2", "3", "sql", "plain", "json"):
        document = problem(await client.get(f"/{path}"), 500)
        assert document.pop("instance") == f"/{path}"
        del document["request_id"]
        documents.append(document)

    expected = {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    assert documents == [expected] * 7


async def test_the_traceback_is_logged_once_with_the_id_and_the_hook_is_told(
    app: FastAPI, caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    told: list[tuple[Exception, Scope]] = []
    fails(app, plain)
    net = install_safety_net(
        app,
        environment="production",
        on_error=lambda error, scope: told.append((error, scope)),
    )
    async with client_of(net) as client:
        response = await client.get("/fails")

    (record,) = records(caplog)
    identity = response.headers["x-request-id"]
    assert record.levelno == logging.ERROR
    assert record.__dict__["request_id"] == identity
    assert identity in record.getMessage()
    assert record.exc_info
    ((error, scope),) = told
    assert record.exc_info[1] is error
    assert scope["path"] == "/fails"
    assert log_text(caplog).count("in fail\n") == 1
    proof.cost("an unhandled exception", log_records=1)


@pytest.mark.parametrize("environment", ["production", "prod", "staging", ""])
def test_debug_output_is_refused_where_nobody_develops(environment: str) -> None:
    with pytest.raises(ValueError, match="debug output"):
        install_safety_net(FastAPI(debug=True), environment=environment)


async def test_debug_output_that_is_switched_on_later_is_replaced(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    fails(app, plain)
    app.debug = True
    response = await client.get("/fails")
    problem(response, 500)
    assert CANARY not in response.text


async def test_whoever_develops_sees_the_traceback() -> None:
    app = FastAPI(debug=True)
    fails(app, plain)
    async with client_of(install_safety_net(app, environment="test")) as client:
        response = await client.get("/fails")
    assert response.status_code == 500
    assert "Traceback" in response.text


async def test_an_error_handler_that_fails_ends_in_the_same_500(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.exception_handler(LookupError)
    async def translate(_: Request, error: LookupError) -> None:
        raise TypeError(CANARY) from error

    @app.exception_handler(Exception)
    async def last(_: Request, error: Exception) -> None:
        raise ArithmeticError(CANARY) from error

    fails(app, caused)

    response = await client.get("/fails")

    document = problem(response, 500)
    assert CANARY not in response.text
    assert document["title"] == "Internal Server Error"
    (record,) = records(caplog)
    assert record.exc_info
    chain: list[str] = []
    error = record.exc_info[1]
    while error:
        chain.append(type(error).__name__)
        error = error.__cause__
    assert chain == ["ArithmeticError", "TypeError", "LookupError", "ConnectionError"]


async def test_an_application_without_any_handler_is_answered_for() -> None:
    async def bare(*_: object) -> None:
        raise plain()

    exchange = Exchange(SafetyNet(bare), "/fails")
    await exchange.run()

    assert exchange.document()["status"] == 500
    assert exchange.document()["request_id"] == "request-7"
    assert len(exchange.starts) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_error_in_middleware_is_answered_as_one_in_a_handler(
    app: FastAPI, net: ASGIApp, method: str
) -> None:
    class Broken:
        """Middleware that fails."""

        def __init__(self, app: ASGIApp) -> None:
            """Surround an application that is never reached."""
            self.app = app

        async def __call__(self, *_: object) -> None:
            """Fail."""
            raise plain()

    app.add_middleware(Broken)
    exchange = Exchange(net, "/fails", method=method)
    await exchange.run()

    (start,) = exchange.starts
    assert start["status"] == 500
    headers = dict(start["headers"])
    assert headers[b"content-type"] == PROBLEM.encode()
    whole = Exchange(net, "/fails")
    await whole.run()
    assert headers[b"content-length"] == str(len(whole.body)).encode()
    assert exchange.body == (b"" if method == "HEAD" else whole.body)
    assert whole.document() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "instance": "/fails",
        "request_id": "request-7",
    }


@pytest.mark.parametrize(("status", "logged"), [(429, 0), (503, 1)])
async def test_what_middleware_raises_is_answered_with_its_status_and_headers(
    app: FastAPI,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    status: int,
    logged: int,
) -> None:
    class Limit:
        """Middleware that lets nobody pass."""

        def __init__(self, app: ASGIApp) -> None:
            """Surround an application that is never reached."""
            self.app = app

        async def __call__(self, *_: object) -> None:
            """Refuse."""
            raise HTTPException(status, "later", {"Retry-After": "7"})

    app.add_middleware(Limit)
    response = await client.get("/nothing")

    assert ("detail" in problem(response, status)) is (status == 429)
    assert response.headers["retry-after"] == "7"
    assert len(records(caplog)) == logged


async def test_a_body_too_large_is_a_problem_whether_it_says_so_or_is_counted(
    client: httpx.AsyncClient,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"12345"

    declared = problem(await client.post("/voicemails", content=b"1" * 11), 413)
    counted = problem(await client.post("/voicemails", content=chunks()), 413)
    exact = await client.post("/voicemails", content=b"1" * 10)

    assert declared["title"] == counted["title"] == "Content Too Large"
    assert (exact.status_code, exact.json()) == (200, 10)


async def test_without_the_net_the_early_413_is_plain_text(app: FastAPI) -> None:
    async with client_of(app) as client:
        response = await client.post("/voicemails", content=b"1" * 11)
    assert response.status_code == 413
    assert response.headers["content-type"].startswith("text/plain")


async def test_what_middleware_answers_as_plain_text_is_a_problem_with_its_headers(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    refused = PlainTextResponse("no", 429, {"Retry-After": "7", "Vary": "Origin"})
    refused.headers.append("vary", "Cookie")
    app.add_api_route("/limited", lambda: refused)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["pbx"])

    response = await client.get("/limited")
    problem(response, 429)
    assert response.headers["retry-after"] == "7"
    assert response.headers.get_list("vary") == ["Origin", "Cookie"]
    stranger = await client.get("/limited", headers={"host": "evil.example"})
    problem(stranger, 400)


async def test_a_replaced_5xx_keeps_retry_after_only_and_is_logged_once(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"X-Error": CANARY, "retry-after": "7", "ETag": CANARY}
    app.add_api_route("/busy", lambda: PlainTextResponse(CANARY, 503, headers))

    response = await client.get("/busy")

    problem(response, 503)
    assert response.headers["retry-after"] == "7"
    names = {"retry-after", "content-type", "content-length", "x-request-id"}
    assert set(response.headers) == names
    (record,) = records(caplog)
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert str(record.exc_info[1]) == "503: Service Unavailable"
    assert record.__dict__["request_id"] == response.headers["x-request-id"]


async def test_a_replaced_4xx_has_no_header_that_told_of_the_old_body(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    about = {
        "Content-Disposition": "attachment",
        "Content-Encoding": "gzip",
        "Content-Language": "en",
        "Content-Location": "/old",
        "Content-Range": "bytes 0-1/2",
        "ETag": '"7"',
        "Last-Modified": "Fri, 27 Nov 2026 00:00:00 GMT",
        "Transfer-Encoding": "chunked",
    }
    kept = {"Content-Security-Policy": "default-src 'none'", "X-Own": "1"}
    answer = PlainTextResponse("no", 404, about | kept)
    app.add_api_route("/gone", lambda: answer)

    response = await client.get("/gone")

    problem(response, 404)
    assert not {name.lower() for name in about} & set(response.headers)
    assert {name.lower() for name in kept} < set(response.headers)
    assert records(caplog) == []


@pytest.mark.parametrize("status", [404, 500])
async def test_a_packed_error_is_replaced_by_one_that_is_not_packed(
    app: FastAPI, client: httpx.AsyncClient, status: int
) -> None:
    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.add_api_route("/packed", lambda: PlainTextResponse(CANARY * 100, status))
    by_hand = PlainTextResponse(gzip.compress(b"x"), status)
    by_hand.headers["Content-Encoding"] = "gzip"
    app.add_api_route("/packed-by-hand", lambda: by_hand)
    for path in ("/packed", "/packed-by-hand"):
        response = await client.get(path)
        assert CANARY not in response.text
        problem(response, status)


async def test_an_answer_whose_start_has_no_headers_is_replaced_or_passed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for status, body in ((200, b"fine"), (404, b"{"), (500, b"{")):

        async def bare(_: Scope, __: Receive, send: Send, status: int = status) -> None:
            await send({"type": "http.response.start", "status": status})
            await send({"type": "http.response.body", "body": b"fine"})

        exchange = Exchange(SafetyNet(bare))
        await exchange.run()
        assert exchange.body.startswith(body)
        assert exchange.starts[0]["status"] == status
    assert len(records(caplog)) == 1  # of the replaced 500


async def test_an_application_that_writes_names_in_capitals_is_understood() -> None:
    async def shout(scope: Scope, _: Receive, send: Send) -> None:
        status, kind = scope["query_string"].split(b"&")
        start = {"type": "http.response.start", "status": int(status)}
        await send({**start, "headers": [(b"Content-Type", kind)]})
        await send({"type": "http.response.body", "body": b"own"})

    for query, passes in (
        (b"409&application/json", True),
        (b"503&application/problem+json", True),
        (b"409&Text/Plain; charset=utf-8", False),
        (b"500&text/html", False),
    ):
        exchange = Exchange(SafetyNet(shout), query=query)
        await exchange.run()
        assert (exchange.body == b"own") is passes


async def test_an_application_that_answers_nothing_is_answered_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def silent(*_: object) -> None:
        pass

    exchange = Exchange(SafetyNet(silent))
    await exchange.run()

    assert exchange.document()["status"] == 500
    (record,) = records(caplog)
    assert record.exc_info
    assert "returned without an answer" in str(record.exc_info[1])


async def test_an_application_that_answers_nobody_who_is_there_is_let_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def patient(_: Scope, receive: Receive, __: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    exchange = Exchange(SafetyNet(patient))
    await exchange.run()
    assert (exchange.sent, records(caplog)) == ([], [])


async def test_an_error_answer_that_says_what_it_is_passes_as_it_is(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    answers = {
        "/json": JSONResponse({"reason": "busy"}, 409),
        "/problem": JSONResponse({"status": 503}, 503, media_type=PROBLEM),
        "/limit": JSONResponse({"status": 429}, 429, media_type=PROBLEM),
        "/html": PlainTextResponse("<p>gone", 410, media_type="text/html"),
        "/fine": PlainTextResponse("fine"),
    }
    for path, answer in answers.items():
        app.add_api_route(path, lambda answer=answer: answer, response_model=None)
        response = await client.get(path)
        assert response.content == answer.body
        assert response.status_code == answer.status_code


async def test_an_answer_in_pieces_is_passed_on_piece_by_piece(
    app: FastAPI, net: ASGIApp
) -> None:
    seen = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.wait_for(seen.wait(), 5)
        yield b"second"

    async def look(message: Message) -> None:
        if message.get("body") == b"first":
            seen.set()

    app.add_api_route("/pieces", lambda: StreamingResponse(pieces()))
    exchange = Exchange(net, "/pieces", before_send=look)
    await exchange.run()

    assert exchange.body == b"firstsecond"


async def test_an_answer_that_has_begun_is_cut_off_and_not_begun_again(
    app: FastAPI, net: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise plain()

    app.add_api_route("/half", lambda: StreamingResponse(half()))
    exchange = Exchange(net, "/half")

    with pytest.raises(ResponseCutOffError, match="request-7") as raised:
        await exchange.run()

    assert raised.value.__suppress_context__
    assert [start["status"] for start in exchange.starts] == [200]
    assert exchange.body == b"half"
    assert exchange.sent[-1]["more_body"] is True
    (record,) = records(caplog)
    assert record.__dict__["request_id"] == "request-7"


async def test_a_background_task_that_fails_leaves_the_answer_whole(
    app: FastAPI, net: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise plain()

    answer = PlainTextResponse("stored", background=BackgroundTask(fail))
    app.add_api_route("/stored", lambda: answer)
    exchange = Exchange(net, "/stored")
    await exchange.run()

    assert exchange.body == b"stored"
    assert len(exchange.starts) == 1
    assert len(records(caplog)) == 1


async def test_a_file_that_the_server_sends_is_a_whole_answer(
    app: FastAPI, net: ASGIApp, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async def fail() -> None:
        raise plain()

    greeting = tmp_path / "greeting.wav"
    greeting.write_bytes(b"hello")
    answer = FileResponse(greeting, background=BackgroundTask(fail))
    app.add_api_route("/greeting", lambda: answer)

    async def offer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {"http.response.pathsend": {}}
        await net(scope, receive, send)

    exchange = Exchange(offer, "/greeting")
    await exchange.run()

    assert exchange.sent[-1]["type"] == "http.response.pathsend"
    assert len(records(caplog)) == 1


async def test_a_plain_4xx_does_not_wait_for_its_background_task(
    app: FastAPI, net: ASGIApp
) -> None:
    answered = asyncio.Event()

    async def look(_: Message) -> None:
        answered.set()

    async def wait() -> None:
        await asyncio.wait_for(answered.wait(), 5)

    answer = PlainTextResponse("no", 404, background=BackgroundTask(wait))
    app.add_api_route("/gone", lambda: answer)
    exchange = Exchange(net, "/gone", before_send=look)
    await exchange.run()

    assert exchange.document()["status"] == 404


async def test_a_cancelled_request_is_neither_answered_nor_logged(
    app: FastAPI, net: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    began = asyncio.Event()

    async def ring() -> None:
        began.set()
        await asyncio.Event().wait()

    app.add_api_route("/ring", ring)
    exchange = Exchange(net, "/ring")
    task = asyncio.create_task(exchange.run())
    await asyncio.wait_for(began.wait(), 5)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.sent == []
    assert records(caplog) == []


async def test_a_client_that_left_is_not_answered_and_no_error_is_logged(
    app: FastAPI, net: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/left")
    async def left(request: Request) -> None:
        async for _ in request.stream():
            pass

    exchange = Exchange(net, "/left", method="POST", chunks=[])
    await exchange.run()

    assert exchange.sent == []
    assert records(caplog) == []


async def test_a_disconnect_of_something_else_is_a_failure(
    app: FastAPI, net: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/upstream")
    async def upstream() -> None:
        raise ClientDisconnect

    exchange = Exchange(net, "/upstream")
    await exchange.run()

    assert exchange.document()["status"] == 500
    assert len(records(caplog)) == 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [ConnectionRefusedError, TimeoutError, OSError])
async def test_an_os_error_of_a_streamed_body_is_a_failure_and_not_a_disconnect(
    app: FastAPI,
    net: ASGIApp,
    caplog: pytest.LogCaptureFixture,
    kind: type[OSError],
    *,
    first: bool,
) -> None:
    async def recording() -> AsyncIterator[bytes]:
        if not first:
            yield b"half"
        raise kind(CANARY)

    app.add_api_route("/recording", lambda: StreamingResponse(recording()))
    exchange = Exchange(net, "/recording")
    with pytest.raises(ResponseCutOffError):
        await exchange.run()

    assert exchange.body == (b"" if first else b"half")
    (record,) = records(caplog)
    assert record.exc_info
    assert type(record.exc_info[1]) is kind


class ClientLeftError(OSError):
    """What a server of ASGI 2.4 raises of its own."""


@pytest.mark.parametrize("kind", [ClientLeftError, BrokenPipeError])
@pytest.mark.parametrize("path", ["/fails", "/nothing", "/pieces"])
async def test_a_client_that_leaves_during_the_answer_is_no_error_of_the_service(
    app: FastAPI,
    net: ASGIApp,
    caplog: pytest.LogCaptureFixture,
    path: str,
    kind: type[OSError],
) -> None:
    fails(app, plain)
    app.add_api_route("/pieces", lambda: StreamingResponse(iter("ab")))

    async def leave(_: Message) -> None:
        raise kind("the connection is closed")

    await Exchange(net, path, before_send=leave).run()

    assert "the connection is closed" not in log_text(caplog)
    assert len(records(caplog)) == (path == "/fails")


@pytest.mark.parametrize("kind", [TimeoutError, PermissionError, OSError])
@pytest.mark.parametrize("path", ["/nothing", "/pieces"])
async def test_an_os_error_of_a_layer_outside_is_no_client_that_left(
    app: FastAPI,
    net: ASGIApp,
    caplog: pytest.LogCaptureFixture,
    path: str,
    kind: type[OSError],
) -> None:
    app.add_api_route("/pieces", lambda: StreamingResponse(iter("ab")))

    async def fail(_: Message) -> None:
        raise kind("the disk of the access log is full")

    with pytest.raises((kind, ClientDisconnect)) as raised:
        await Exchange(net, path, before_send=fail).run()
    error = raised.value.__context__ if path == "/pieces" else raised.value
    assert type(error) is kind
    assert records(caplog) == []


def test_a_hook_that_would_never_be_awaited_is_refused() -> None:
    async def hook(_: Exception, __: Scope) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="hook"):
        install_safety_net(FastAPI(), environment="production", on_error=hook)


async def test_a_hook_that_fails_is_logged_and_the_answer_is_the_same(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(error: Exception, _: Scope) -> None:
        raise LookupError("no such project") from error

    fails(app, plain)
    net = install_safety_net(app, environment="production", on_error=hook)
    exchange = Exchange(net, "/fails")
    await exchange.run()

    assert exchange.document()["status"] == 500
    kinds = [one.exc_info and one.exc_info[0] for one in records(caplog)]
    assert kinds == [RuntimeError, LookupError]
    ids = [vars(one)["request_id"] for one in records(caplog)]
    assert ids == ["request-7"] * 2


async def test_other_scopes_pass_untouched() -> None:
    scopes: list[Scope] = []

    async def inner(scope: Scope, *_: object) -> None:
        scopes.append(scope)
        if scope["type"] == "websocket":
            raise plain()

    async def receive() -> Message:
        raise NotImplementedError

    async def send(message: Message) -> None:
        raise NotImplementedError(message)

    net = SafetyNet(inner)
    lifespan, websocket = {"type": "lifespan"}, {"type": "websocket"}
    await net(lifespan, receive, send)
    with pytest.raises(RuntimeError):
        await net(websocket, receive, send)
    assert scopes == [lifespan, websocket]


async def test_fifty_failures_at_once_each_have_their_own_id(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    barrier = asyncio.Barrier(50)

    async def fail() -> None:
        await barrier.wait()
        raise plain()

    app.add_api_route("/fails", fail)
    responses = await asyncio.gather(*(client.get("/fails") for _ in range(50)))

    documents = [problem(response, 500) for response in responses]
    assert len({document["request_id"] for document in documents}) == 50


async def test_without_it_the_client_reads_the_password_of_the_database(
    caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    app = FastAPI()
    safe_errors_naive.install_safety_net(app)
    fails(app, plain)
    async with client_of(app) as client:
        response = await client.get("/fails")

    assert CANARY in response.json()["detail"]
    proof.breaks(
        "A connection fails, and the exception quotes its address.",
        "The client reads the password of the database.",
    )
    (record,) = records(caplog)
    assert record.exc_info is None
    assert "in fail\n" not in log_text(caplog)
    proof.breaks(
        "Somebody looks for the cause in the log.",
        "The record has no traceback.",
    )


async def test_without_it_debug_output_shows_the_source(proof: Proof) -> None:
    app = FastAPI(debug=True)
    safe_errors_naive.install_safety_net(app)
    fails(app, plain)
    async with client_of(app) as client:
        response = await client.get("/fails")
    assert "Traceback" in response.text
    assert CANARY in response.text
    proof.breaks(
        "Debug output was left on.",
        "The client reads the traceback, and the handler is not even called.",
    )


async def test_the_socket_route_is_left_alone(app: FastAPI, net: ASGIApp) -> None:
    @app.websocket("/ring")
    async def ring(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    exchange = Exchange(net, "/ring", kind="websocket")
    await exchange.run()
    kinds = [message["type"] for message in exchange.sent]
    assert kinds == ["websocket.accept", "websocket.close"]


async def test_what_a_layer_outside_raises_when_it_is_sent_an_answer_is_its_own(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    class RefusedError(Exception):
        """The layer outside has answered by itself."""

    async def refuse(_: Message) -> None:
        raise RefusedError

    told: list[str] = []
    net = install_safety_net(
        app,
        environment="production",
        on_error=lambda error, _: told.append(type(error).__name__),
    )
    fails(app, plain)
    app.add_api_route("/fine", lambda: "fine")
    for path in ("/fine", "/gone"):
        with pytest.raises(RefusedError):
            await Exchange(net, path, before_send=refuse).run()
    assert (records(caplog), told) == ([], [])

    with pytest.raises(RefusedError):
        await Exchange(net, "/fails", before_send=refuse).run()
    assert (len(records(caplog)), told) == (1, ["RuntimeError"])
