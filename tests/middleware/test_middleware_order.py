"""Whatever answers, the answer has been through all layers outside of it."""

import ast
import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from starlette.applications import Starlette

from catalogue.plugin import Proof
from snippets.middleware import middleware_order_naive as naive
from snippets.middleware import request_logging
from snippets.middleware.body_limit import BodyLimitMiddleware
from snippets.middleware.header_context import (
    ASGIApp,
    RequestIDMiddleware,
    correlation_id,
    request_id,
)
from snippets.middleware.middleware_order import (
    ORDER,
    MiddlewareOrderError,
    Stack,
    build_stack,
    check_order,
)
from snippets.middleware.rate_limit import RateLimitMiddleware
from snippets.middleware.rate_limiter import RateLimiter
from snippets.middleware.security_headers import SecurityHeadersMiddleware
from tests.support.asgi import (
    Exchange,
    Message,
    Receive,
    Scope,
    Send,
    values_of,
    websocket_scope,
)
from tests.support.counters import count_round_trips

ORIGIN = "https://desk.example"
MARKS = {
    "X-Request-ID": "r-1",
    "X-Correlation-ID": "c-1",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ASKED = [("X-Request-ID", "r-1"), ("X-Correlation-ID", "c-1"), ("Origin", ORIGIN)]
SHORTLY, EVER = 60, 3600


class TenantMiddleware:
    """Says for whom a request is, and fails where it is asked to."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the tenant."""
        if scope.get("path") == "/tenant-fails":
            raise LookupError
        if scope["type"] == "http":
            scope["state"]["tenant"] = f"tenant of {request_id.get()}"
        await self.app(scope, receive, send)


@pytest.fixture
def stack(redis: Redis) -> Stack:
    """What a service allows: three requests, and 100 bytes each."""
    return Stack(
        allowed_hosts=["test", "127.0.0.1"],
        allowed_origins=[ORIGIN],
        max_body_size=100,
        limiter=RateLimiter(
            name=uuid4().hex,
            limit=3,
            window=SHORTLY,
            client=lambda: redis,
            on_outage="open",
        ),
        registry=CollectorRegistry(),
        tenant=Middleware(TenantMiddleware),
    )


def telephony() -> FastAPI:
    """Return an application without any layer."""
    app = FastAPI()

    @app.get("/calls/{call_id}")
    async def show(call_id: int, request: Request) -> str:
        return f"{60 / call_id:.0f} for the {request.state.tenant}"

    @app.post("/voicemails")
    async def leave(request: Request) -> int:
        return len(await request.body())

    return app


def add(app: FastAPI, layer: Callable[..., ASGIApp]) -> None:
    """Add a layer whose options nobody will ask for."""
    app.add_middleware(layer)


async def requested(app: ASGIApp, exchange: Exchange) -> Exchange:
    """Send a request whose exception the server would log."""
    try:
        await exchange.run(app)
    except (ZeroDivisionError, LookupError):
        assert exchange.status == 500
    return exchange


def has_all(exchange: Exchange) -> bool:
    """Whether an answer has each header once that every answer must have."""
    return all(exchange.values(name) == [value] for name, value in MARKS.items())


def access_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of the access log."""
    name = request_logging.__name__
    return [record for record in caplog.records if record.name == name]


@pytest.mark.parametrize(
    ("asked", "body", "status"),
    [
        ("GET /calls/7", [], 200),
        ("GET /nothing", [], 404),
        ("DELETE /calls/7", [], 405),
        ("POST /voicemails", [b"a" * 60, b"a" * 60], 413),
        ("GET /calls/seven", [], 422),
        ("GET /calls/0", [], 500),
        ("GET /tenant-fails", [], 500),
    ],
)
async def test_every_answer_has_all_headers_and_is_logged_and_counted_once(
    asked: str,
    body: list[bytes],
    status: int,
    stack: Stack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    method, path = asked.split()
    caplog.set_level(logging.INFO)
    app = build_stack(telephony(), stack)
    exchange = await requested(app, Exchange(method, path, ASKED, body))

    assert (exchange.status, has_all(exchange)) == (status, True)
    assert exchange.values("Access-Control-Allow-Origin") == [ORIGIN]
    [record] = access_of(caplog)
    access = vars(record)["access"]
    assert (access["status"], access["request_id"]) == (status, "r-1")
    count = "http_requests_total"
    labels = {"method": method, "status": str(status), "route": access["route"]}
    assert stack.registry.get_sample_value(count, labels) == 1


async def test_a_declared_length_that_is_too_large_is_refused_with_all_headers(
    stack: Stack,
) -> None:
    length = [*ASKED, ("Content-Length", "1000")]
    exchange = Exchange("POST", "/voicemails", length, [b"a" * 1000])
    await exchange.run(build_stack(telephony(), stack))

    assert (exchange.status, has_all(exchange)) == (413, True)
    assert exchange.values("Access-Control-Allow-Origin") == [ORIGIN]
    assert b'"request_id": "r-1"' in exchange.body


async def test_a_request_above_the_rate_is_refused_with_all_headers(
    stack: Stack,
) -> None:
    app = build_stack(telephony(), stack)
    answers = [await Exchange("GET", "/calls/7", ASKED).run(app) for _ in range(5)]

    assert [one.status for one in answers] == [200, 200, 200, 429, 429]
    assert all(has_all(one) for one in answers)
    refused = answers[-1]
    assert refused.values("Access-Control-Allow-Origin") == [ORIGIN]
    [readable] = refused.values("Access-Control-Expose-Headers")
    assert {"Retry-After", "X-Request-ID"} <= set(readable.split(", "))
    assert b'"request_id":"r-1"' in refused.body


@pytest.mark.parametrize(("origin", "status"), [(ORIGIN, 200), ("https://other", 400)])
async def test_a_preflight_is_neither_limited_nor_an_error_in_the_log(
    origin: str, status: int, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = build_stack(telephony(), stack)
    ask = [("Origin", origin), ("Access-Control-Request-Method", "DELETE"), *ASKED[:2]]
    with count_round_trips() as trips:
        for _ in range(5):
            exchange = Exchange("OPTIONS", "/calls/7", ask)
            await exchange.run(app)
            assert (exchange.status, has_all(exchange)) == (status, True)

    assert trips.total == 0
    assert [record.levelname for record in access_of(caplog)] == ["INFO"] * 5


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics"])
async def test_probes_and_scrapes_are_not_limited(path: str, stack: Stack) -> None:
    app = build_stack(telephony(), stack)
    answers = [await Exchange("GET", path).run(app) for _ in range(5)]

    assert [one.status for one in answers] == [404] * 5


async def test_a_host_that_is_not_ours_is_refused_before_anything_is_asked(
    stack: Stack,
) -> None:
    exchange = Exchange("GET", "/calls/7", [("Host", "other"), *ASKED])
    exchange.scope["headers"] = exchange.scope["headers"][1:]
    with count_round_trips() as trips:
        await exchange.run(build_stack(telephony(), stack))

    assert (exchange.status, has_all(exchange), trips.total) == (400, True, 0)
    labels = {"method": "GET", "route": "unmatched", "status": "400"}
    assert stack.registry.get_sample_value("http_requests_total", labels) == 1


async def test_a_request_costs_one_round_trip_and_one_record(
    stack: Stack, caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    caplog.set_level(logging.INFO)
    app = build_stack(telephony(), stack)
    await Exchange("GET", "/calls/7", ASKED).run(app)  # the script is loaded
    caplog.clear()
    with count_round_trips() as trips:
        exchange = await Exchange("GET", "/calls/7", ASKED).run(app)

    assert exchange.body == b'"9 for the tenant of r-1"'
    assert trips.total == len(access_of(caplog)) == 1
    proof.cost("a request through all layers", redis_round_trips=1, log_records=1)


def test_the_layers_stand_in_the_declared_order(stack: Stack) -> None:
    app = telephony()
    layer: object = build_stack(app, stack)
    names: list[object] = []
    while not isinstance(layer, FastAPI):
        names.append(type(layer))
        layer = vars(layer)["app"]

    inside: list[object] = [added.cls for added in app.user_middleware]
    assert [one for one in names if one in ORDER] == list(ORDER[:-1])
    assert inside == [RateLimitMiddleware, TenantMiddleware]


def test_what_the_application_has_of_its_own_stays_inside(stack: Stack) -> None:
    app = telephony()
    app.add_middleware(GZipMiddleware)
    build_stack(app, stack)

    classes: list[object] = [added.cls for added in app.user_middleware]
    assert classes == [RateLimitMiddleware, TenantMiddleware, GZipMiddleware]


@pytest.mark.parametrize(("outer", "inner"), list(pairwise(ORDER)))
def test_two_layers_in_wrong_order_are_refused_by_name(
    outer: type[Any], inner: type[Any]
) -> None:
    app = telephony()
    add(app, outer)
    add(app, inner)  # what is added last is outermost

    words = f"{inner.__name__} must stand inside of {outer.__name__}"
    with pytest.raises(MiddlewareOrderError, match=words):
        check_order(app)


@pytest.mark.parametrize("layer", ORDER)
def test_a_layer_that_the_application_has_already_is_refused_at_start(
    layer: type[Any], stack: Stack
) -> None:
    app = telephony()
    add(app, layer)

    with pytest.raises(MiddlewareOrderError, match=layer.__name__):
        build_stack(app, stack)


def test_who_is_refused_is_left_as_it_was_and_may_be_built_with_other_layers(
    stack: Stack,
) -> None:
    app = telephony()
    build_stack(app, stack)
    before = list(app.user_middleware)

    for registry in (stack.registry, CollectorRegistry()):
        with pytest.raises(MiddlewareOrderError, match="another RateLimitMiddleware"):
            build_stack(app, replace(stack, registry=registry))
        assert app.user_middleware == before

    other = telephony()
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        build_stack(other, stack)
    with pytest.raises(ValueError, match="no paths below the root"):
        build_stack(other, replace(stack, unlimited="/health"))
    assert other.user_middleware == []
    build_stack(other, replace(stack, registry=CollectorRegistry()))


@pytest.mark.parametrize(
    "hidden",
    [
        lambda app: RequestIDMiddleware(app, trust_inbound=False),
        partial(RequestIDMiddleware, trust_inbound=False),
        RequestIDMiddleware(FastAPI()).__call__,
    ],
)
def test_what_is_no_class_cannot_be_looked_into(
    hidden: Callable[..., ASGIApp], stack: Stack
) -> None:
    app = telephony()
    add(app, hidden)

    for refused in (app, SecurityHeadersMiddleware(app)):
        with pytest.raises(MiddlewareOrderError, match="cannot be seen"):
            check_order(refused)
    with pytest.raises(MiddlewareOrderError, match="cannot be seen"):
        build_stack(app, stack)
    with pytest.raises(MiddlewareOrderError, match="cannot be seen"):
        build_stack(telephony(), replace(stack, tenant=Middleware(hidden)))


def test_a_layer_of_the_order_is_no_tenant(stack: Stack) -> None:
    wrong = Middleware(RequestIDMiddleware)
    with pytest.raises(MiddlewareOrderError, match="stand inside of RequestID"):
        build_stack(telephony(), replace(stack, tenant=wrong))


def test_a_subclass_stands_for_its_layer() -> None:
    class OwnIDs(RequestIDMiddleware):
        """Ids of another form."""

    app = telephony()
    app.add_middleware(OwnIDs)
    with pytest.raises(
        MiddlewareOrderError, match="must stand inside of RequestIDMiddleware"
    ):
        check_order(SecurityHeadersMiddleware(app))


def test_a_right_order_with_others_between_and_gaps_is_accepted() -> None:
    app = telephony()
    app.add_middleware(GZipMiddleware)
    app.add_middleware(BodyLimitMiddleware, max_body_size=1)
    app.add_middleware(CORSMiddleware)

    right = RequestIDMiddleware(TenantMiddleware(app))
    check_order(right)
    with pytest.raises(MiddlewareOrderError, match="inside of another RequestID"):
        check_order(RequestIDMiddleware(right))


def names_in(module: Path) -> set[str]:
    """Return all names that a module imports, or takes of something."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
    return names


BUFFERING = {"BaseHTTPMiddleware", "starlette.middleware.base", "middleware", "base"}
"""What makes a middleware out of a function, also FastAPI's decorator."""


def test_no_layer_of_these_patterns_is_made_by_starlette_out_of_a_function() -> None:
    modules = sorted(Path(naive.__file__).parent.glob("*.py"))
    own = [one for one in modules if not one.stem.endswith("_naive")]
    others = [one for one in modules if one.stem.endswith("_naive")]

    assert len(own) > 20
    assert [one.name for one in own if names_in(one) & BUFFERING] == []
    assert [one.name for one in others if names_in(one) & BUFFERING] == [
        "header_context_naive.py",
        "request_logging_naive.py",
        "security_headers_naive.py",
    ]


def test_fastapi_is_left_as_it_is() -> None:
    assert FastAPI.add_middleware is Starlette.add_middleware
    assert FastAPI.add_middleware.__module__ == "starlette.applications"
    assert FastAPI.build_middleware_stack.__module__.startswith(
        ("fastapi", "starlette")
    )


async def test_a_hundred_requests_at_once_see_only_what_is_theirs(
    stack: Stack, redis: Redis
) -> None:
    everybody_is_in = asyncio.Barrier(100)
    app = FastAPI()

    @app.get("/")
    async def meet(request: Request) -> list[str | None]:
        await everybody_is_in.wait()
        state = request.state
        in_a_thread = await asyncio.to_thread(request_id.get)
        return [state.request_id, request_id.get(), in_a_thread, correlation_id.get()]

    limiter = RateLimiter(
        name=uuid4().hex,
        limit=100,
        window=EVER,
        client=lambda: redis,
        on_outage="closed",
    )
    edge = build_stack(app, replace(stack, limiter=limiter))
    ids = [f"r-{number}" for number in range(100)]
    answers = await asyncio.gather(
        *(
            Exchange(
                headers=[("X-Request-ID", one), ("X-Correlation-ID", f"c{one}")]
            ).run(edge)
            for one in ids
        )
    )

    assert [one.body.decode() for one in answers] == [
        f'["{one}","{one}","{one}","c{one}"]' for one in ids
    ]
    assert [one.values("X-Request-ID") for one in answers] == [[one] for one in ids]


async def test_a_websocket_has_its_ids_and_is_neither_logged_nor_limited(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = FastAPI()

    @app.websocket("/ring")
    async def ring(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(f"{websocket.state.request_id} {request_id.get()}")
        await websocket.close()

    edge = build_stack(app, stack)
    for _ in range(5):
        exchange = Exchange()
        scope = websocket_scope("/ring", ASKED)

        async def connect() -> Message:
            return {"type": "websocket.connect"}

        await edge(scope, connect, exchange.send)
        accepted, said, _ = exchange.sent
        assert values_of(accepted["headers"], "X-Request-ID") == ["r-1"]
        assert values_of(accepted["headers"], "X-Frame-Options") == []
        assert said["text"] == "r-1 r-1"

    assert access_of(caplog) == []


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_leaves_or_is_cancelled_is_logged_and_counted_once(
    *, leaves: bool, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = FastAPI()

    @app.get("/")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "first"
            await asyncio.Event().wait()

        return StreamingResponse(lines())

    exchange = Exchange(headers=ASKED)
    running = asyncio.create_task(exchange.run(build_stack(app, stack)))
    await exchange.until(lambda sent: len(sent) == 2)
    in_progress = stack.registry.get_sample_value("http_requests_in_progress")
    if leaves:
        exchange.leave()
        await running
    else:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    [record] = access_of(caplog)
    assert vars(record)["access"]["status"] == 499
    labels = {"method": "GET", "route": "/", "status": "499"}
    assert stack.registry.get_sample_value("http_requests_total", labels) == 1
    assert in_progress == 1
    assert stack.registry.get_sample_value("http_requests_in_progress") == 0
    assert request_id.get() is None


async def test_the_naive_stack_refuses_without_id_security_or_cors_headers(
    redis: Redis, proof: Proof
) -> None:
    app = telephony()
    limiter = RateLimiter(
        name=uuid4().hex, limit=0, window=60, client=lambda: redis, on_outage="closed"
    )
    naive.add_stack(app, limiter, ORIGIN)
    exchange = await Exchange("GET", "/calls/7", ASKED).run(app)

    assert exchange.status == 429
    for name in (*MARKS, "Access-Control-Allow-Origin"):
        assert exchange.values(name) == []
    proof.breaks("A request is refused with 429", "it has no id and no other header")

    preflight = [*ASKED, ("Access-Control-Request-Method", "DELETE")]
    exchange = await Exchange("OPTIONS", "/calls/7", preflight).run(app)
    assert exchange.status == 429
    proof.breaks("A browser asks first", "its preflight is limited")
    with pytest.raises(MiddlewareOrderError, match="RateLimitMiddleware must stand"):
        check_order(app)


async def test_the_naive_stack_answers_a_fault_bare(redis: Redis, proof: Proof) -> None:
    app = telephony()
    limiter = RateLimiter(
        name=uuid4().hex, limit=9, window=60, client=lambda: redis, on_outage="closed"
    )
    naive.add_stack(app, limiter, ORIGIN)
    exchange = await requested(app, Exchange("GET", "/calls/0", ASKED))

    assert exchange.status == 500
    for name in (*MARKS, "Access-Control-Allow-Origin"):
        assert exchange.values(name) == []
    proof.breaks("The handler raises", "the 500 has no id, and no script may read it")
