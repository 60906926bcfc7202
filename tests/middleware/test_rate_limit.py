"""Too many requests are refused, with what a client needs to come back in time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from catalogue.plugin import Proof
from snippets.middleware.client_address import client_network
from snippets.middleware.header_context import RequestIDMiddleware
from snippets.middleware.http_metrics import MetricsMiddleware
from snippets.middleware.rate_limit import RateLimitMiddleware, rate_limit
from snippets.middleware.rate_limit_naive import RateLimit
from snippets.middleware.rate_limiter import RateLimiter
from tests.support.asgi import Exchange, live_server, websocket_scope
from tests.support.counters import count_round_trips
from tests.support.redis_servers import RedisServer

PEER = "10.0.0.2"
PROXIES = [ip_network("10.0.0.0/24")]
LIMITS = "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"


@dataclass
class Service:
    """An application behind a limit, one proxy away from its clients."""

    redis: Redis
    namespace: str

    def limiter(self, limit: int, window: float = 60.0, name: str = "") -> RateLimiter:
        """Return a limiter of the service."""
        return RateLimiter(
            name=f"{self.namespace}{name}",
            limit=limit,
            window=window,
            client=lambda: self.redis,
            on_outage="open",
        )

    def app(self, limit: int, window: float = 60.0) -> FastAPI:
        """Return an application that admits so many requests of each client."""
        app = FastAPI()
        app.add_middleware(
            RateLimitMiddleware,
            limiter=self.limiter(limit, window),
            key=lambda scope: client_network(scope, trusted_proxies=PROXIES),
            exempt=["/health"],
        )

        @app.get("/extensions/{number}")
        async def show(number: int) -> int:
            return number

        return app


@pytest.fixture
def service(redis: Redis, redis_server: RedisServer) -> Service:
    """A service with a namespace of its own."""
    return Service(redis, redis_server.namespace)


async def get(
    app: FastAPI, path: str = "/extensions/7", forwarded: str = "192.0.2.7"
) -> Exchange:
    """Ask for a path through the proxy."""
    headers = [("X-Forwarded-For", forwarded)] if forwarded else []
    return await Exchange("GET", path, headers, client=(PEER, 4000)).run(app)


def limits_of(answer: Exchange) -> list[list[str]]:
    """Return the values of the three headers."""
    return [answer.values(name) for name in LIMITS]


async def test_an_answer_says_how_much_is_left_and_when_there_is_more(
    service: Service,
) -> None:
    answer = await get(service.app(2))

    assert answer.status == 200
    assert limits_of(answer) == [["2"], ["1"], ["60"]]
    assert not answer.values("retry-after")


async def test_a_refusal_is_a_problem_that_says_when_to_come_back(
    service: Service,
) -> None:
    app = service.app(1)
    await get(app)
    refused = await get(app, "/extensions/a b\u20ac")

    assert refused.status == 429
    assert refused.values("content-type") == ["application/problem+json"]
    assert json.loads(refused.body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "too many requests",
        "instance": "/extensions/a%20b%E2%82%AC",
    }
    assert limits_of(refused)[:2] == [["1"], ["0"]]
    [retry_after] = refused.values("retry-after")
    assert 0 < int(retry_after) <= 60


@pytest.mark.backends("fakeredis")
async def test_who_comes_back_when_told_passes_and_not_a_second_sooner(
    redis_backend: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert redis_backend == "fakeredis"
    now = 1_700_000_000.25
    monkeypatch.setattr("time.time", lambda: now)
    app = service.app(3, window=9.5)
    for _ in range(3):
        now += 0.7
        assert (await get(app)).status == 200
    now += 0.1
    refused = await get(app)
    assert refused.values("retry-after") == ["8"]

    for _ in range(7):
        now += 1
        assert (await get(app)).status == 429
    now += 1
    assert (await get(app)).status == 200


async def test_every_answer_counts_also_errors_and_what_is_not_there(
    service: Service,
) -> None:
    app = service.app(4)

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    answers = [
        await get(app, path) for path in ("/nowhere", "/extensions/x", "/extensions")
    ]
    fault = Exchange("GET", "/broken", client=("192.0.2.7", 4000))
    with pytest.raises(ZeroDivisionError):
        await fault.run(app)
    answers.append(await get(app))

    assert [answer.status for answer in answers] == [404, 422, 404, 429]
    assert [limits_of(answer)[1] for answer in answers] == [["3"], ["2"], ["1"], ["0"]]
    # FastAPI gives this answer outside of the middleware, which has counted it.
    assert (fault.status, limits_of(fault)) == (500, [[], [], []])


async def test_around_the_finished_application_a_fault_has_the_headers_too(
    service: Service,
) -> None:
    app = FastAPI()

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    limited = RateLimitMiddleware(app, limiter=service.limiter(2), key=tenant_of)
    fault = Exchange("GET", "/broken")
    with pytest.raises(ZeroDivisionError):
        await fault.run(limited)

    assert (fault.status, limits_of(fault)[:2]) == (500, [["2"], ["1"]])


async def test_a_limit_of_0_blocks_everything_without_a_promise(
    service: Service,
) -> None:
    refused = await get(service.app(0))

    assert refused.status == 429
    assert limits_of(refused) == [["0"], ["0"], ["60"]]
    assert not refused.values("retry-after")


async def test_rotating_the_forwarded_header_does_not_escape(service: Service) -> None:
    app = service.app(5)
    answers = [
        await get(app, forwarded=f"10.9.9.{number}, 192.0.2.7") for number in range(20)
    ]
    bare = [await get(app, forwarded="") for _ in range(6)]

    assert [one.status for one in answers].count(200) == 5
    assert [one.status for one in bare].count(200) == 5  # by the peer's address


async def test_who_reaches_the_service_past_the_proxy_cannot_invent_an_address(
    service: Service,
) -> None:
    app, mallory = service.app(5), ("198.51.100.66", 4000)
    answers = []
    for number in range(20):
        forged = [("X-Forwarded-For", f"192.0.2.{number}")]
        exchange = Exchange("GET", "/extensions/7", forged, client=mallory)
        answers.append(await exchange.run(app))

    assert [one.status for one in answers].count(200) == 5


async def test_a_client_does_not_use_up_another_s(service: Service) -> None:
    app = service.app(1)
    for client in ("192.0.2.7", "192.0.2.8", "2001:db8:7::1", "2001:db8:8::1"):
        assert (await get(app, forwarded=client)).status == 200
        assert (await get(app, forwarded=client)).status == 429
    assert (await get(app, forwarded="2001:db8:7::2")).status == 429


async def test_only_whole_segments_are_exempt(service: Service) -> None:
    app = service.app(1)
    for path in ("/health", "/health/", "/health/live"):
        answer = await get(app, path)
        assert answer.status == 404
        assert not answer.values("ratelimit-limit")
    assert (await get(app, "/healthcare")).status == 404

    assert (await get(app, "/healthcare")).status == 429
    proxied = await Exchange("GET", "/api/health", root_path="/api").run(app)
    assert proxied.status == 404
    assert not proxied.values("ratelimit-limit")


@pytest.mark.parametrize(
    "path",
    ["/health/../ring.txt", "/health/x/../../ring.txt", "/health/./../ring.txt"],
)
async def test_a_file_that_a_detour_reaches_is_not_exempt(
    path: str, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "ring.txt").write_text("ring", "utf-8")
    app = service.app(1)
    app.mount("/", StaticFiles(directory=tmp_path))
    answers = [await get(app, path) for _ in range(2)]

    assert (answers[0].status, answers[0].body) == (200, b"ring")
    assert answers[1].status == 429


@pytest.mark.parametrize(
    "path", ["/health\\..\\extensions", "/health/..\\x", "//health", "/health/.", "/"]
)
async def test_what_a_server_may_read_otherwise_is_not_exempt(
    path: str, service: Service
) -> None:
    answer = await get(service.app(1), path)

    assert answer.values("ratelimit-limit") == ["1"]


@pytest.mark.parametrize("exempt", ["/health", ["/"], [""], ["//"], ["health"]])
def test_what_would_exempt_everything_or_nothing_is_refused(
    exempt: str | list[str], service: Service
) -> None:
    with pytest.raises(ValueError, match="no paths below the root"):
        RateLimitMiddleware(
            FastAPI(), limiter=service.limiter(1), key=tenant_of, exempt=exempt
        )


async def test_a_websocket_is_not_counted(service: Service) -> None:
    app = service.app(0)

    @app.websocket("/events")
    async def events(socket: WebSocket) -> None:
        await socket.close()

    exchange = Exchange()
    await app(websocket_scope("/events"), exchange.receive, exchange.send)

    assert [one["type"] for one in exchange.sent] == ["websocket.close"]


async def test_a_request_costs_one_round_trip(service: Service, proof: Proof) -> None:
    app = service.app(1)
    await get(app, forwarded="192.0.2.9")  # so that Redis knows the script

    with count_round_trips() as admitted:
        await get(app)
    with count_round_trips() as refused:
        await get(app)
    with count_round_trips() as exempt:
        await get(app, "/health")

    assert (admitted.total, refused.total, exempt.total) == (1, 1, 0)
    proof.cost("a request", round_trips=admitted.total)
    proof.cost("a request to an exempt path", round_trips=exempt.total)


async def test_of_100_requests_at_once_exactly_50_pass(service: Service) -> None:
    app = service.app(50)
    async with live_server(app) as server:
        request = b"GET /extensions/7 HTTP/1.1\r\nHost: test\r\n\r\n"
        answers = await asyncio.gather(*(server.request(request) for _ in range(100)))

    assert sorted(answer.status for answer in answers) == [200] * 50 + [429] * 50


async def test_a_stream_is_passed_on_as_it_comes(service: Service) -> None:
    app, may_end = service.app(1), asyncio.Event()

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


async def test_the_instance_of_a_refusal_is_a_path_and_never_a_host(
    service: Service,
) -> None:
    app = service.app(0)
    for path, instance in {
        "//evil.example/x": "/evil.example/x",
        "/a\r\n<b>": "/a%0D%0A%3Cb%3E",
    }.items():
        refused = await get(app, path)
        assert refused.status == 429
        assert json.loads(refused.body)["instance"] == instance


async def test_a_refusal_has_the_request_id_in_body_and_header(
    service: Service,
) -> None:
    app = service.app(0)
    app.add_middleware(RequestIDMiddleware)

    refused = await get(app)

    [request_id] = refused.values("x-request-id")
    assert json.loads(refused.body)["request_id"] == request_id


async def test_metrics_count_refusals_without_a_label_for_each_client(
    service: Service,
) -> None:
    app, registry = service.app(0), CollectorRegistry()
    app.add_middleware(MetricsMiddleware, registry=registry)

    for number in range(20):
        await get(app, f"/extensions/{number}", forwarded=f"192.0.2.{number}")

    [requests] = [one for one in registry.collect() if one.name == "http_requests"]
    totals = [one for one in requests.samples if one.name == "http_requests_total"]
    assert [(one.labels["status"], one.value) for one in totals] == [("429", 20)]


def tenant_of(scope: object) -> str:
    """Count by tenant; a test needs only one."""
    assert scope
    return "acme"


async def test_a_dependency_counts_a_route_and_not_the_others(
    service: Service, proof: Proof
) -> None:
    app = service.app(100)
    limited = Depends(rate_limit(service.limiter(10, name="c"), key=tenant_of, cost=4))

    @app.post("/conferences", dependencies=[limited])
    async def start() -> str:
        return "started"

    with count_round_trips() as trips:
        answers = [await Exchange("POST", "/conferences").run(app) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [limits_of(one)[:2] for one in answers] == [
        [["10"], ["6"]],
        [["10"], ["2"]],
        [["10"], ["2"]],
    ]  # the dependency's, though the middleware has some to add
    assert answers[2].values("retry-after")
    assert (await get(app)).status == 200
    assert trips.commands.count("EVALSHA") == 6
    proof.cost("a request with middleware and dependency", round_trips=2)


async def test_a_response_of_the_route_s_own_goes_without_a_dependency_s_headers(
    service: Service,
) -> None:
    app = FastAPI()
    limited = Depends(rate_limit(service.limiter(10), key=tenant_of))

    @app.get("/own", dependencies=[limited])
    async def own() -> Response:
        return Response("own")

    assert limits_of(await get(app, "/own")) == [[], [], []]


async def test_the_naive_version_lets_pass_what_reads_before_it_writes(
    redis: Redis, proof: Proof
) -> None:
    everybody_has_read = asyncio.Barrier(20)

    async def after_all(
        execute: Callable[..., Awaitable[object]], *command: object
    ) -> object:
        answer = await execute(*command)
        if command[0] == "GET":
            await everybody_has_read.wait()
        return answer

    execute = redis.execute_command
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            redis,
            "execute_command",
            lambda *command, **_: after_all(execute, *command),
        )
        app = FastAPI()
        limited = Depends(RateLimit(redis, limit=5, window=60))

        @app.get("/calls", dependencies=[limited])
        async def calls() -> str:
            return "started"

        answers = await asyncio.gather(*(get(app, "/calls") for _ in range(20)))

    await redis.delete("rate:192.0.2.7")
    passed = [one.status for one in answers].count(200)
    assert passed == 20
    proof.breaks(
        "20 requests at once, at a limit of 5", f"{passed} pass, and are counted as one"
    )


async def test_the_naive_version_believes_the_first_forwarded_entry(
    redis: Redis, proof: Proof
) -> None:
    app = FastAPI()

    @app.get("/calls", dependencies=[Depends(RateLimit(redis, limit=1, window=60))])
    async def calls() -> str:
        return "started"

    answers = [
        await get(app, "/calls", forwarded=f"10.9.9.{number}, 192.0.2.7")
        for number in range(20)
    ]

    await redis.delete(*(f"rate:10.9.9.{number}" for number in range(20)))
    assert [one.status for one in answers] == [200] * 20
    proof.breaks("A client invents another address for each request", "it has no limit")
