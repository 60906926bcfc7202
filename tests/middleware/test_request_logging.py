"""One record for each request, whatever becomes of it, and nothing secret in it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from time import perf_counter
from typing import Any, cast
from urllib.parse import quote

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    FastAPI,
    HTTPException,
    Request,
    Response,
)
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.routing import Route

from catalogue.plugin import Proof
from snippets.middleware import request_logging
from snippets.middleware.header_context import HeaderContextFilter, RequestIDMiddleware
from snippets.middleware.http_metrics import route_template
from snippets.middleware.redactor import MASK
from snippets.middleware.request_logging import LogOptions, RequestLoggingMiddleware
from tests.support.asgi import Exchange, Message, Receive, Scope, Send, websocket_scope

CANARY = "canary-7f3a"
CONTENT = LogOptions(content=True, environment="development")


class Log:
    """What the middleware has logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        """Look at what pytest captures."""
        self._caplog = caplog

    @property
    def records(self) -> list[logging.LogRecord]:
        """The access records."""
        name = request_logging.__name__
        return [record for record in self._caplog.records if record.name == name]

    @property
    def access(self) -> dict[str, Any]:
        """What the one record says."""
        [record] = self.records
        access: dict[str, Any] = vars(record)["access"]
        return access


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """What is logged from now on."""
    caplog.set_level(logging.INFO)
    with caplog.filtering(HeaderContextFilter()):
        yield Log(caplog)


async def ok(_: Scope, receive: Receive, send: Send) -> None:
    """Read the body to its end, and answer."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def telephony() -> FastAPI:
    """Return an application that answers in many ways."""
    app = FastAPI()

    @app.get("/calls/{call_id}")
    async def show(call_id: int) -> float:
        if call_id == 429:
            raise HTTPException(429)
        return 1 / call_id

    @app.post("/reset/{token}")
    async def reset(token: str) -> int:
        return len(token)

    return app


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/calls/7", "/calls/{call_id}", 200),
        ("DELETE", "/calls/7", "/calls/{call_id}", 405),
        ("GET", "/calls/seven", "/calls/{call_id}", 422),
        ("GET", "/calls/429", "/calls/{call_id}", 429),
        ("GET", "/calls/0", "/calls/{call_id}", 500),
        ("GET", "/nothing", None, 404),
    ],
)
async def test_each_answer_is_logged_once_with_its_route_and_status(
    method: str, path: str, route: str | None, status: int, log: Log
) -> None:
    exchange = Exchange(method, path, [("X-Request-ID", "mine")])
    app = RequestIDMiddleware(RequestLoggingMiddleware(telephony()))
    if status == 500:
        with pytest.raises(ZeroDivisionError):
            await exchange.run(app)
    else:
        await exchange.run(app)

    assert log.access["method"] == method
    assert (log.access["route"], log.access["path"]) == (route, path)
    assert log.access["status"] == exchange.status == status
    assert log.access["bytes"] == len(exchange.body)
    assert log.access["client"] == "192.0.2.1"
    [record] = log.records
    assert log.access["request_id"] == vars(record)["request_id"] == "mine"
    assert record.levelno == (logging.ERROR if status == 500 else logging.INFO)
    assert record.getMessage() == f"{method} {path} {status}"


async def test_the_time_is_taken_to_the_last_byte_and_not_to_the_end_of_tasks(
    log: Log, proof: Proof
) -> None:
    now = 100.0
    app = FastAPI()

    def later() -> None:
        nonlocal now
        assert len(log.records) == 1
        now += 60

    @app.get("/")
    async def show(after: BackgroundTasks) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            nonlocal now
            for _ in range(4):
                now += 0.25
                yield "line"

        after.add_task(later)
        return StreamingResponse(lines())

    options = LogOptions(clock=lambda: now)
    await Exchange().run(RequestLoggingMiddleware(app, options))

    assert (log.access["milliseconds"], log.access["bytes"]) == (1000.0, 16)
    proof.cost("a request", log_records=1)


async def test_a_file_that_the_server_sends_ends_the_answer(log: Log) -> None:
    async def by_path(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/greeting.wav"})

    await Exchange().run(RequestLoggingMiddleware(by_path))

    assert log.access["status"] == 200


@pytest.mark.parametrize("has_begun", [False, True])
async def test_an_exception_is_logged_as_500_by_its_name_and_goes_on(
    *, has_begun: bool, log: Log
) -> None:
    error = LookupError(CANARY)

    async def fail(_: Scope, __: Receive, send: Send) -> None:
        if has_begun:
            await send({"type": "http.response.start", "status": 200})
        raise error

    with pytest.raises(LookupError) as raised:
        await Exchange().run(RequestLoggingMiddleware(fail))

    assert raised.value is error
    assert (log.access["status"], log.access["error"]) == (500, "LookupError")
    assert CANARY not in str(vars(log.records[0]))


async def test_an_answer_that_never_ends_or_never_begins_is_a_fault(log: Log) -> None:
    async def begin(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    await Exchange().run(RequestLoggingMiddleware(begin))

    assert log.access["status"] == 500


async def test_an_error_after_the_last_byte_is_not_logged_a_second_time(
    log: Log,
) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await ok(scope, receive, send)
        raise LookupError

    with pytest.raises(LookupError):
        await Exchange().run(RequestLoggingMiddleware(fail))

    assert log.access["status"] == 200


async def test_where_only_errors_are_logged_an_answer_is_none(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, request_logging.__name__)
    app = RequestLoggingMiddleware(telephony())
    await Exchange("GET", "/calls/7").run(app)
    assert log.records == []

    with pytest.raises(ZeroDivisionError):
        await Exchange("GET", "/calls/0").run(app)
    assert log.access["status"] == 500


async def test_a_record_names_its_logger_and_its_file(log: Log) -> None:
    await Exchange("GET", "/calls/7").run(RequestLoggingMiddleware(telephony()))

    [record] = log.records
    assert (record.module, record.funcName) == ("request_logging", "log")
    assert record.exc_info is None


async def test_a_cancelled_request_is_logged_as_499(log: Log) -> None:
    is_in = asyncio.Event()

    async def wait(_: Scope, __: Receive, ___: Send) -> None:
        is_in.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Exchange().run(RequestLoggingMiddleware(wait)))
    await is_in.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (log.access["status"], log.access["error"]) == (499, "CancelledError")


async def test_a_client_that_leaves_while_it_is_answered_is_logged_as_499(
    log: Log,
) -> None:
    app = FastAPI()

    @app.get("/")
    async def show() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "line"
            await asyncio.Event().wait()

        return StreamingResponse(lines())

    exchange = Exchange()
    running = asyncio.create_task(exchange.run(RequestLoggingMiddleware(app)))
    await exchange.until(lambda sent: len(sent) == 2)
    exchange.leave()
    await running

    assert (log.access["status"], log.access["bytes"]) == (499, 4)


async def test_a_send_that_fails_is_a_client_that_has_left(log: Log) -> None:
    class Gone(Exchange):
        """A connection that is closed."""

        async def send(self, _: object) -> None:
            """Fail, as servers do since version 2.4 of the specification."""
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Gone().run(RequestLoggingMiddleware(ok))

    assert log.access["status"] == 499


@pytest.mark.parametrize("length", [b"abc", b"-1", b"1e9", b"9" * 5000, b"\xff"])
async def test_a_length_that_is_none_harms_nobody(length: bytes, log: Log) -> None:
    exchange = Exchange("POST", headers=[("Content-Length", length)], body=[b"a", b"b"])
    await exchange.run(RequestLoggingMiddleware(ok, CONTENT))

    assert (exchange.status, log.access["body"]) == (200, "<2 bytes>")


async def test_of_a_large_body_no_more_than_the_cap_is_held_and_all_is_passed_on(
    log: Log, proof: Proof
) -> None:
    chunks = [bytes([number]) * 2000 for number in range(100)]
    held: list[int] = []
    seen: list[bytes] = []

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        is_over = False
        while not is_over:
            message = await receive()
            seen.append(message["body"])
            held.append(len(cast("Any", receive).__self__.kept))
            is_over = not message["more_body"]
        await ok(scope, exchange_is_over, send)

    async def exchange_is_over() -> Message:
        return {"type": "http.request"}

    await Exchange("POST", body=chunks).run(RequestLoggingMiddleware(read, CONTENT))

    assert all(one is other for one, other in zip(seen, chunks, strict=True))
    assert max(held) == 10_000
    assert held[-1] == 0
    assert log.access["body"] == "<200000 bytes>"
    proof.cost("a chunked body of 200,000 bytes", bytes_held_at_most=max(held))


async def test_a_body_of_exactly_the_cap_is_logged(log: Log) -> None:
    options = LogOptions(content=True, environment="test", body_cap=20)
    json = [("Content-Type", "application/json")]
    for body in ([b'{"token": ', b'"abc"}   '], [b'{"token": ', b'"abcdefghij"}']):
        await Exchange("POST", "/", json, body).run(
            RequestLoggingMiddleware(ok, options)
        )

    shown = [vars(record)["access"]["body"] for record in log.records]
    assert shown == [{"token": MASK}, "<23 bytes>"]


async def test_chunks_of_the_answer_are_passed_on_one_by_one_as_they_are() -> None:
    may_go_on = asyncio.Event()
    last = {"type": "http.response.body", "body": b"last"}

    async def stream(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await may_go_on.wait()
        await send(last)

    exchange = Exchange()
    app = RequestLoggingMiddleware(stream, CONTENT)
    running = asyncio.create_task(exchange.run(app))
    await exchange.until(lambda sent: len(sent) == 2)
    may_go_on.set()
    await running

    assert exchange.sent[-1] is last


async def test_secrets_of_path_query_headers_and_body_are_masked(log: Log) -> None:
    headers = [
        (name, CANARY)
        for name in ("Authorization", "Proxy-Authorization", "Cookie", "X-Auth-Token")
    ]
    exchange = Exchange(
        "POST",
        f"/reset/{CANARY}?token={CANARY}&user%5Fpassword={CANARY}",
        [*headers, ("Content-Type", "application/json")],
        [f'[{{"client_secret": "{CANARY}", "card": 4111111111111111}}]'.encode()],
    )
    await exchange.run(RequestLoggingMiddleware(telephony(), CONTENT))

    assert exchange.status == 200
    assert CANARY not in str(log.access)
    assert log.access["path"] == f"/reset/{MASK}"
    assert log.access["query"] == f"token={MASK}&user_password={MASK}"
    assert log.access["headers"]["cookie"] == MASK
    assert log.access["body"] == "<0 bytes>"  # the route does not read it


def resetting() -> FastAPI:
    """Return an application with secrets in paths of all kinds."""
    app = FastAPI()

    async def reset(request: Request) -> Response:
        return Response(str(len(request.path_params)))

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(scope["path"])(scope, receive, send)

    tokens, invites = APIRouter(), APIRouter(prefix="/invites/{invite_token}")
    for kind in ("uuid", "int", "float", "path"):
        tokens.add_api_route(f"/{kind}/{{token:{kind}}}", reset, methods=["POST"])
    invites.add_api_route("/open", reset, methods=["POST"])
    app.include_router(tokens, prefix="/v1/{tenant}")
    app.include_router(invites)
    sub = FastAPI()
    sub.include_router(tokens)
    app.mount("/sub/{tenant}", sub)
    app.mount("/raw", raw)
    app.mount("/secret/{secret}", Starlette(routes=[Route("/open", reset)]))
    app.add_api_route("/reset/{token}", reset, methods=["POST"])
    return app


UUID = "7F3A7F3A7F3A4F3A8F3A7F3A7F3A7F3A"
SECRET_PATHS = {
    f"/v1/acme/uuid/{UUID}": "uuid",
    "/v1/acme/int/0070": "int",
    "/v1/acme/float/7.70": "float",
    f"/v1/acme/path/a/{UUID}": "path",
    f"/v1/acme/uuid/{UUID}?": "uuid",
    f"/invites/{UUID}/open": "open",
    f"/sub/acme/uuid/{UUID}": "uuid",
    f"/sub/acme/reset/{UUID}": "sub",
    f"/sub/acme/uuid/{UUID}/": "sub",
    f"/raw/reset/{UUID}": "raw",
    f"/secret/{UUID}/open": "open",
    f"/secret/{UUID}": "secret",
    f"/reset/{UUID}": "reset",
    f"/reset/{UUID}/": "reset",
    f"/reset//{UUID}": "reset",
    f"/RESET/{UUID}": "RESET",
    f"//reset/{UUID}": "//",
    f"/v1/acme/nowhere/{UUID}": "v1",
}


@pytest.mark.parametrize("path", SECRET_PATHS)
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("options", [LogOptions(), LogOptions(route=route_template)])
async def test_a_secret_in_a_path_is_masked_whatever_its_form_and_the_answer(
    path: str, method: str, options: LogOptions, log: Log
) -> None:
    app = RequestLoggingMiddleware(resetting(), options)
    exchange = await Exchange(method, path).run(app)

    assert exchange.status in (200, 307, 404, 405)
    for secret in (UUID, UUID.lower(), "7.7", "70"):
        assert secret not in f"{log.access['path']} {log.access['route']}"
        assert secret not in log.records[0].getMessage()
    assert SECRET_PATHS[path] in log.access["path"]
    assert MASK in log.access["path"] or log.access["path"].endswith("/open")


async def test_what_is_answered_before_routing_is_logged_by_its_first_segment(
    log: Log,
) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("too many", 429)(scope, receive, send)

    app = RequestLoggingMiddleware(refuse)
    for path in (f"/reset/{CANARY}", "/calls"):
        await Exchange("POST", path).run(app)

    shown = [vars(record)["access"]["path"] for record in log.records]
    assert shown == [f"/reset/{MASK}", "/calls"]
    assert log.records[0].getMessage() == f"POST /reset/{MASK} 429"


async def test_headers_and_bodies_are_not_logged_unless_asked_for(log: Log) -> None:
    await Exchange("POST", body=[b"{}"]).run(RequestLoggingMiddleware(ok))

    assert log.access.keys().isdisjoint({"headers", "body"})


@pytest.mark.parametrize(
    "environment", ["production", "Production", " PROD", "prod-eu"]
)
def test_production_refuses_to_log_content(environment: str) -> None:
    with pytest.raises(ValueError, match="not logged in production"):
        LogOptions(content=True, environment=environment)


def test_who_says_nothing_of_the_environment_is_in_production() -> None:
    with pytest.raises(ValueError, match="not logged in production"):
        LogOptions(content=True)


@pytest.mark.parametrize(
    ("path", "is_logged"),
    [
        ("/health", False),
        ("/health/", False),
        ("/health/live", False),
        ("/healthcare", True),
        ("/calls/health", True),
        ("/", True),
        ("//health", True),
        ("/health/../calls", True),
        ("/health/..", True),
        ("/health/live/./x", True),
        ("/health\\..\\calls", True),
        ("/health/..\\calls", True),
        ("/health/..live", False),
        ("/health/a..", False),
    ],
)
async def test_exempt_paths_are_whole_segments(
    path: str, *, is_logged: bool, log: Log
) -> None:
    app = RequestLoggingMiddleware(ok, LogOptions(exempt=["/health"]))
    await Exchange(path=path).run(app)
    await Exchange(path=f"/telephony{path}", root_path="/telephony").run(app)

    assert len(log.records) == 2 * is_logged


@pytest.mark.parametrize("exempt", ["/health", ["/"], [""], ["//"], ["health"]])
def test_what_would_exempt_everything_or_nothing_is_refused(
    exempt: str | list[str],
) -> None:
    with pytest.raises(ValueError, match="no paths below the root"):
        RequestLoggingMiddleware(ok, LogOptions(exempt=exempt))


def test_the_clock_is_one_that_nobody_sets() -> None:
    assert LogOptions().clock is perf_counter


@pytest.mark.parametrize("hostile", ["\r\nGET /faked 200", "\u2028faked", "\x1b[2K"])
async def test_no_path_query_or_header_makes_a_second_line(
    hostile: str, log: Log
) -> None:
    headers = [("X-Name", hostile), (f"x-{hostile}", "a")]
    exchange = Exchange(f"GET{hostile}", f"/{hostile}?a={quote(hostile)}", headers)
    await exchange.run(RequestLoggingMiddleware(ok, CONTENT))

    [record] = log.records
    line = logging.Formatter("%(message)s %(access)s").format(record)
    assert line.isprintable()
    assert len(line.splitlines()) == 1


async def test_a_query_of_any_bytes_is_logged(log: Log) -> None:
    exchange = Exchange(query_string=b"a=\xff\xfe&token=\xff")
    await exchange.run(RequestLoggingMiddleware(ok))

    assert log.access["status"] == 200
    assert log.access["query"] == "a=\xff\xfe&token=***"


@pytest.mark.parametrize(
    ("networks", "client"),
    [
        ([], "192.0.2.1"),
        (["192.0.2.0/24"], "198.51.100.1"),
        (["192.0.2.0/24", "198.51.100.0/24"], "203.0.113.7"),
        (["198.51.100.0/24"], "192.0.2.1"),
    ],
)
async def test_the_client_is_who_the_trusted_proxies_say(
    networks: list[str], client: str, log: Log
) -> None:
    forwarded = [("X-Forwarded-For", "10.9.9.9, 203.0.113.7, 198.51.100.1")]
    options = LogOptions(trusted_proxies=[ip_network(one) for one in networks])
    await Exchange(headers=forwarded).run(RequestLoggingMiddleware(ok, options))

    assert log.access["client"] == client


async def test_a_websocket_and_a_lifespan_pass_untouched(log: Log) -> None:
    calls = []

    async def start(*given: object) -> None:
        calls.append(given)

    exchange = Exchange()
    for scope in (websocket_scope(), {"type": "lifespan"}):
        app = RequestLoggingMiddleware(start)
        await app(scope, exchange.receive, exchange.send)
        assert calls.pop() == (scope, exchange.receive, exchange.send)

    assert log.records == []


async def test_a_hundred_requests_at_once_are_logged_each_with_its_own_id(
    log: Log,
) -> None:
    everybody_is_in = asyncio.Barrier(100)

    async def meet(scope: Scope, receive: Receive, send: Send) -> None:
        await everybody_is_in.wait()
        await ok(scope, receive, send)

    app = RequestIDMiddleware(RequestLoggingMiddleware(meet))
    ids = [f"request-{number}" for number in range(100)]
    await asyncio.gather(
        *(
            Exchange(path=f"/{one}", headers=[("X-Request-ID", one)]).run(app)
            for one in ids
        )
    )

    said = [
        (vars(one)["request_id"], vars(one)["access"]["path"]) for one in log.records
    ]
    assert sorted(said) == sorted((one, f"/{one}") for one in ids)
