"""The whole edge around all error patterns: one answer, one record, one id."""

import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from json import loads
from typing import Any, Literal
from uuid import uuid4

import pytest
import sqlalchemy as sa
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.middleware import Middleware
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, Field
from redis.asyncio import Redis
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.caching.redis_client import create_redis
from snippets.database.async_session import create_engine_and_sessions
from snippets.errors import safe_errors
from snippets.errors.error_registry import AppError, ErrorCode
from snippets.errors.error_registry_wiring import create_registry
from snippets.errors.problem_details import install_problem_handlers
from snippets.errors.safe_errors import install_safety_net
from snippets.errors.validation_problems import install_validation_handler
from snippets.middleware import request_logging
from snippets.middleware.client_address import client_network
from snippets.middleware.header_context import (
    ASGIApp,
    HeaderContextFilter,
    RequestIDMiddleware,
    request_id,
)
from snippets.middleware.middleware_order import (
    MiddlewareOrderError,
    Stack,
    build_stack,
    check_order,
)
from snippets.middleware.rate_limit import rate_limit
from snippets.middleware.rate_limiter import RateLimiter
from tests.support.asgi import Exchange, Receive, Scope, Send
from tests.support.problems import CANARY, PROBLEM, log_text
from tests.support.redis_servers import NOWHERE

ORIGIN = "https://desk.example"
ASKED = [("X-Request-ID", "r-1"), ("Origin", ORIGIN)]
JSON = ("Content-Type", "application/json")
LIMIT = 200  # bytes
MINUTE = 60
NO_CREDIT = ErrorCode("/problems/no-credit", 409, "No credit is left", ("needed",))


class NoCreditError(AppError):
    """A call costs more than is left."""

    code = NO_CREDIT


class Voicemail(BaseModel):
    """What is left for somebody."""

    caller: str
    pin: str = Field(max_length=4)


class TenantMiddleware:
    """Fails, or refuses, where it is asked to."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the path."""
        if scope["path"] == "/tenant-fails":
            raise LookupError(CANARY)
        if scope["path"] == "/tenant-refuses":
            raise HTTPException(401, "who are you", {"WWW-Authenticate": "Bearer"})
        await self.app(scope, receive, send)


def limiter(
    redis: Redis, limit: int, on_outage: Literal["open", "closed"] = "open"
) -> RateLimiter:
    """Return a limiter of a minute."""
    return RateLimiter(
        name=uuid4().hex,
        limit=limit,
        window=MINUTE,
        client=lambda: redis,
        on_outage=on_outage,
    )


def client(scope: Scope) -> str:
    """Return who is counted."""
    return client_network(scope, trusted_proxies=())


@dataclass
class Edge:
    """An application inside of all layers, and what is read of it from outside."""

    app: FastAPI
    stack: Stack
    caplog: pytest.LogCaptureFixture
    told: list[str] = field(default_factory=list)

    def build(self) -> ASGIApp:
        """Return what is served."""
        return build_stack(self.app, self.stack)

    def counted_once(self, method: str, status: int) -> dict[str, Any]:
        """Return the one access record, after comparing the one count with it."""
        name = request_logging.__name__
        [record] = [vars(one) for one in self.caplog.records if one.name == name]
        access: dict[str, Any] = record["access"]
        assert (access["status"], access["request_id"]) == (status, "r-1")
        labels = {"method": method, "route": access["route"], "status": str(status)}
        count = "http_requests_total"
        assert self.stack.registry.get_sample_value(count, labels) == 1
        assert self.page().count(f"\n{count}{{") == 1
        exemplars = [
            sample.exemplar
            for metric in self.stack.registry.collect()
            for sample in metric.samples
        ]
        ids = [one.labels for one in exemplars if one]
        assert ids == [{"request_id": "r-1"}] * 2  # of the count, and of a bucket
        return access

    def page(self) -> str:
        """Return what is scraped."""
        return generate_latest(self.stack.registry).decode()


@pytest.fixture
async def hiding(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine whose exceptions do not quote parameters."""
    engine, _ = create_engine_and_sessions(database_url, hide_parameters=True)
    yield engine
    await engine.dispose()


@pytest.fixture
def edge(redis: Redis, hiding: AsyncEngine, caplog: pytest.LogCaptureFixture) -> Edge:
    """All layers around all error patterns, and routes that fail in every way."""
    caplog.set_level(logging.INFO, "snippets")
    app = FastAPI()
    told: list[str] = []
    install_problem_handlers(app)
    install_validation_handler(app)
    create_registry(NO_CREDIT).install(app)
    add_routes(app)
    add_statements(app, hiding)
    stack = Stack(
        allowed_hosts=["test"],
        allowed_origins=[ORIGIN],
        max_body_size=LIMIT,
        limiter=limiter(redis, 1000),
        registry=CollectorRegistry(),
        tenant=Middleware(TenantMiddleware),
        net=partial(
            install_safety_net,
            environment="production",
            on_error=lambda error, _: told.append(type(error).__name__),
        ),
    )
    return Edge(app, stack, caplog, told)


def add_routes(app: FastAPI) -> None:
    """Add what refuses or fails in a handler."""

    @app.post("/voicemails")
    async def leave(voicemail: Voicemail) -> str:
        return voicemail.caller

    @app.post("/recordings")
    async def record(request: Request) -> int:
        return len(await request.body())

    @app.get("/private")
    async def private() -> None:
        raise HTTPException(401, "who are you", {"WWW-Authenticate": "Bearer"})

    @app.post("/calls")
    async def call() -> None:
        raise NoCreditError(CANARY, needed=5, internal=CANARY)

    @app.get("/fails")
    async def fail() -> None:
        raise ConnectionError(f"postgresql://pbx:{CANARY}@db")

    @app.get("/busy")
    async def busy() -> None:
        raise PoolTimeoutError(CANARY)

    @app.get("/untrue", response_model=Voicemail)
    async def untrue() -> dict[str, str]:
        return {"caller": "Ada", "pin": CANARY}  # which is too long


def add_statements(app: FastAPI, engine: AsyncEngine) -> None:
    """Add what a database refuses, with a secret among the parameters."""
    insert = sa.text("INSERT INTO numbers VALUES (:number)")
    nowhere = sa.text("INSERT INTO nowhere VALUES (:number)")

    async def execute(*statements: sa.TextClause) -> None:
        async with engine.begin() as connection:
            await connection.execute(sa.text("CREATE TABLE numbers (n TEXT UNIQUE)"))
            for statement in statements:
                await connection.execute(statement, {"number": CANARY})

    @app.post("/numbers")
    async def add_twice() -> None:
        await execute(insert, insert)

    @app.post("/nowhere")
    async def add_nowhere() -> None:
        await execute(nowhere)


@dataclass(frozen=True)
class Wrong:
    """What is asked that cannot be answered, and how it is refused."""

    asked: str
    status: int
    kept: dict[str, str] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    body: tuple[bytes, ...] = ()


BAD_JSON = f'{{"pin": "{CANARY}"'.encode()
BAD_PIN = f'{{"caller": "Ada", "pin": "{CANARY}"}}'.encode()
LONG = (CANARY.encode() * (LIMIT // 20),) * 3
DECLARED = ("Content-Length", str(len(b"".join(LONG))))
SQL_FAILS = "POST /nowhere"
ALL_WRONG = [
    Wrong("POST /voicemails", 400, headers=(JSON,), body=(BAD_JSON,)),
    Wrong("GET /private", 401, kept={"WWW-Authenticate": "Bearer"}),
    Wrong("GET /tenant-refuses", 401, kept={"WWW-Authenticate": "Bearer"}),
    Wrong("GET /nothing", 404),
    Wrong("DELETE /private", 405, kept={"Allow": "GET"}),
    Wrong("POST /calls", 409),
    Wrong("POST /numbers", 409),
    Wrong("POST /recordings", 413, body=LONG),
    Wrong("POST /recordings", 413, headers=(DECLARED,), body=LONG),
    Wrong("POST /voicemails", 413, headers=(DECLARED, JSON), body=LONG),
    Wrong("POST /voicemails", 422, headers=(JSON,), body=(BAD_PIN,)),
    Wrong("GET /fails", 500),
    Wrong(SQL_FAILS, 500),
    Wrong("GET /tenant-fails", 500),
    Wrong("GET /untrue", 500),
    Wrong("GET /busy", 503, kept={"Retry-After": "5"}),
]


@pytest.mark.parametrize(
    "wrong", ALL_WRONG, ids=lambda one: f"{one.asked} {one.status}"
)
async def test_every_error_is_one_problem_one_record_and_one_count_with_one_id(
    wrong: Wrong, edge: Edge
) -> None:
    method, path = wrong.asked.split()
    exchange = Exchange(method, path, [*ASKED, *wrong.headers], wrong.body)
    await exchange.run(edge.build())

    document = is_problem(exchange, wrong.status)
    assert document["instance"] == path
    for name, value in wrong.kept.items():
        assert exchange.values(name) == [value]
    access = edge.counted_once(method, wrong.status)
    traced = [one for one in edge.caplog.records if one.exc_info]
    ids = [vars(one)["request_id"] for one in traced]
    assert ids == ["r-1"] * (wrong.status >= 500)
    assert len(edge.told) == (wrong.status == 500)
    assert CANARY not in str(exchange.sent) + edge.page() + repr(access)
    for one in traced:  # the only place for words; parameters of SQL have none
        if wrong.asked != SQL_FAILS:
            one.exc_info = one.exc_text = None
    assert CANARY not in log_text(edge.caplog)


async def test_a_refusal_of_the_limits_is_a_problem_that_keeps_its_headers(
    edge: Edge, redis: Redis
) -> None:
    once = rate_limit(limiter(redis, 1), key=client)
    edge.app.add_api_route("/dial", lambda: "ok", dependencies=[Depends(once)])
    app = edge.build()
    by_route = [await Exchange("GET", "/dial", ASKED).run(app) for _ in range(2)]
    edge.stack = replace(
        edge.stack, limiter=limiter(redis, 1), registry=CollectorRegistry()
    )
    edge.app = FastAPI()
    install_problem_handlers(edge.app)
    app = edge.build()
    by_layer = [await Exchange("GET", "/nothing", ASKED).run(app) for _ in range(2)]

    documents = []
    for refused in (by_route[1], by_layer[1]):
        document = is_problem(refused, 429)
        assert document["detail"] == "too many requests"
        assert refused.values("RateLimit-Limit") == ["1"]
        assert refused.values("RateLimit-Remaining") == ["0"]
        for name in ("RateLimit-Reset", "Retry-After"):
            [seconds] = refused.values(name)
            assert 0 < int(seconds) <= MINUTE
        del document["instance"]
        documents.append(document)
    assert documents[0] == documents[1]


@pytest.mark.parametrize("by_layer", [True, False])
async def test_a_limiter_that_cannot_count_refuses_with_a_503_of_the_same_form(
    *, by_layer: bool, edge: Edge
) -> None:
    async with create_redis(NOWHERE) as away:
        closed = limiter(away, 1, "closed")
        if by_layer:
            edge.stack = replace(edge.stack, limiter=closed)
        check = Depends(rate_limit(closed, key=client))
        edge.app.add_api_route("/dial", lambda: "ok", dependencies=[check])
        exchange = await Exchange("GET", "/dial", ASKED).run(edge.build())

    is_problem(exchange, 503)
    layers = [] if by_layer else ["1000"]
    assert exchange.values("RateLimit-Limit") == layers
    edge.counted_once("GET", 503)


async def test_a_wrong_host_is_refused_in_plain_text_by_starlette(edge: Edge) -> None:
    exchange = Exchange("GET", "/private", ASKED)
    exchange.scope["headers"][0] = (b"host", b"elsewhere")
    await exchange.run(edge.build())

    assert (exchange.status, exchange.body) == (400, b"Invalid host header")
    assert exchange.values("X-Request-ID") == ["r-1"]
    edge.counted_once("GET", 400)


async def test_handler_thread_background_task_log_and_body_have_the_same_id(
    edge: Edge,
) -> None:
    seen: dict[str, str | None] = {}
    logger = logging.getLogger("snippets.telephony")

    async def afterwards() -> None:
        seen["background task"] = request_id.get()
        logger.info("in a background task")
        raise ConnectionError(CANARY)

    def look() -> None:
        seen["thread"] = request_id.get()
        assert threading.current_thread() is not threading.main_thread()
        logger.info("in a thread")

    @edge.app.get("/dial")
    async def dial(request: Request, after: BackgroundTasks) -> str:
        seen["handler"] = request.state.request_id
        logger.info("in a handler")
        after.add_task(look)
        after.add_task(afterwards)
        return "ok"

    app = edge.build()
    with edge.caplog.filtering(HeaderContextFilter()):
        exchange = await Exchange("GET", "/dial", ASKED).run(app)
        failed = await Exchange("GET", "/fails", ASKED).run(app)

    assert seen == dict.fromkeys(["handler", "thread", "background task"], "r-1")
    assert (exchange.status, exchange.body) == (200, b'"ok"')
    assert is_problem(failed, 500)["request_id"] == "r-1"
    logged = [(one.name, vars(one)["request_id"]) for one in edge.caplog.records]
    ours, access, net = logger.name, request_logging.__name__, safe_errors.__name__
    names = [ours, access, ours, ours, net, net, access]
    assert logged == [(name, "r-1") for name in names]
    assert edge.told == ["ConnectionError", "ConnectionError"]


async def test_an_unhandled_error_without_a_net_has_no_body_of_ours(
    edge: Edge,
) -> None:
    edge.stack = replace(edge.stack, net=None)
    exchange = Exchange("GET", "/fails", ASKED)
    with pytest.raises(ConnectionError):
        await exchange.run(edge.build())

    assert exchange.body == b"Internal Server Error"
    assert exchange.values("X-Request-ID") == ["r-1"]


def test_the_order_is_checked_inside_of_the_net_too(edge: Edge) -> None:
    edge.app.add_middleware(RequestIDMiddleware)
    with pytest.raises(MiddlewareOrderError, match="RequestIDMiddleware"):
        edge.build()


def test_a_net_that_hides_what_is_inside_of_it_is_refused(edge: Edge) -> None:
    def hide(app: FastAPI) -> ASGIApp:
        async def net(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

        return net

    edge.stack = replace(edge.stack, net=hide)
    with pytest.raises(MiddlewareOrderError, match=r"net.* cannot be seen"):
        edge.build()
    with pytest.raises(MiddlewareOrderError, match="cannot be seen"):
        check_order(RequestIDMiddleware(hide(edge.app)))


def is_problem(exchange: Exchange, status: int) -> dict[str, Any]:
    """Return the document, after asserting all that every error must have."""
    document: dict[str, Any] = loads(exchange.body)
    assert exchange.status == document["status"] == status
    assert exchange.values("Content-Type") == [PROBLEM]
    assert exchange.values("Content-Length") == [str(len(exchange.body))]
    assert exchange.values("X-Request-ID") == [document["request_id"]] == ["r-1"]
    assert len(exchange.values("X-Correlation-ID")) == 1
    assert exchange.values("X-Content-Type-Options") == ["nosniff"]
    assert len(exchange.values("Content-Security-Policy")) == 1
    assert exchange.values("Access-Control-Allow-Origin") == [ORIGIN]
    assert {"type", "title", "instance"} <= document.keys()
    return document
