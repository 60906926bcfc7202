"""No client can multiply series, and what ends badly is counted like what ends well."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import monotonic

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.types import Message, Receive, Scope, Send

from catalogue.plugin import Proof
from snippets.middleware.http_metrics import MetricsMiddleware, route_template
from snippets.middleware.http_metrics_naive import PathMetricsMiddleware
from snippets.middleware.http_metrics_wiring import create_app
from tests.support.asgi import Exchange, live_server, websocket_scope

PATIENCE = 60
"""Seconds after which something hangs."""

Counts = dict[tuple[str, str, str], float]


@dataclass
class Service:
    """An application with metrics, and the clock of these."""

    app: FastAPI = field(default_factory=FastAPI)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    now: float = 1000.0

    def __post_init__(self) -> None:
        """Add the middleware."""
        self.app.add_middleware(
            MetricsMiddleware, registry=self.registry, clock=lambda: self.now
        )

    async def get(self, path: str, method: str = "GET") -> Exchange:
        """Ask for a path."""
        return await Exchange(method, path).run(self.app)

    @property
    def counts(self) -> Counts:
        """Requests by method, route and status."""
        return {
            (labels["method"], labels["route"], labels["status"]): value
            for name, labels, value in samples(self.registry)
            if name == "http_requests_total"
        }

    @property
    def routes(self) -> list[str]:
        """The routes of which there are counts."""
        return [route for _, route, _ in self.counts]

    @property
    def in_progress(self) -> float:
        """The gauge."""
        value = self.registry.get_sample_value("http_requests_in_progress")
        assert value is not None
        return value

    def seconds(self, route: str, method: str = "GET") -> float | None:
        """Return how long all requests to a route took."""
        labels = {"method": method, "route": route}
        return self.registry.get_sample_value(
            "http_request_duration_seconds_sum", labels
        )


def samples(
    registry: CollectorRegistry,
) -> list[tuple[str, dict[str, str], float]]:
    """Return what a scrape would see."""
    return [
        (sample.name, sample.labels, sample.value)
        for metric in registry.collect()
        for sample in metric.samples
    ]


@pytest.fixture
def service() -> Service:
    """A service with some users."""
    service = Service()

    @service.app.get("/users/{user_id}")
    async def show(user_id: str) -> str:
        if user_id == "nobody":
            raise HTTPException(404)
        return user_id

    return service


async def test_hostile_paths_and_methods_make_no_series_of_their_own(
    service: Service, proof: Proof
) -> None:
    for number in range(1000):
        await service.get(f"/users/{number}")
        await service.get(f"/backup-{number}/../%0d%0a.zip")
    for number in range(20):
        await service.get("/users/7", method=f"INVENTED{number}")
        await service.get("/nowhere", method=f"INVENTED{number}")

    assert service.counts == {
        ("GET", "/users/{user_id}", "200"): 1000,
        ("GET", "unmatched", "404"): 1000,
        ("OTHER", "/users/{user_id}", "405"): 20,
        ("OTHER", "unmatched", "404"): 20,
    }
    proof.cost("1,000 users, 1,000 invented paths, 20 methods", route_values=2)


async def test_methods_are_told_apart_by_case_as_http_does(service: Service) -> None:
    await service.get("/users/7", method="get")

    assert service.counts == {("OTHER", "/users/{user_id}", "405"): 1}


async def test_what_a_handler_answers_keeps_its_route(service: Service) -> None:
    await service.get("/users/nobody")

    assert service.counts == {("GET", "/users/{user_id}", "404"): 1}


async def test_a_redirected_slash_is_unmatched(service: Service) -> None:
    for number in range(9):
        assert (await service.get(f"/users/{number}/")).status == 307

    assert service.counts == {("GET", "unmatched", "307"): 9}


def telephony() -> Service:
    """Return a service whose routes are included, mounted and mixed."""
    service = Service()
    calls = APIRouter(prefix="/calls")

    @calls.get("/{call_id}")
    async def show(call_id: str) -> str:
        return call_id

    async def plain(request: Request) -> Response:
        return PlainTextResponse(str(request.url))

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("raw")(scope, receive, send)

    tenants = APIRouter(prefix="/tenants/{tenant}")
    tenants.include_router(calls)
    sub = FastAPI()
    sub.include_router(calls, prefix="/deep")
    inner = Starlette(routes=[Route("/greetings/{name}", plain)])
    sub.mount("/media/{region}", inner)
    tenants.mount("/inside", inner)
    service.app.include_router(calls)
    service.app.include_router(tenants, prefix="/v1")
    service.app.mount("/sub/{tenant}", sub)
    service.app.mount("/raw", raw)
    service.app.add_route("/plain/{number}", plain)
    service.app.router.routes.append(Mount("", inner))
    return service


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/calls/1", "/calls/{call_id}"),
        ("/v1/tenants/acme/calls/1", "/v1/tenants/{tenant}/calls/{call_id}"),
        ("/v1/inside/greetings/hello", "/v1/inside/greetings/{name}"),
        ("/sub/acme/deep/calls/1", "/sub/{tenant}/deep/calls/{call_id}"),
        (
            "/sub/acme/media/eu/greetings/hello",
            "/sub/{tenant}/media/{region}/greetings/{name}",
        ),
        ("/raw/any/thing", "/raw/{path}"),
        ("/plain/7", "/plain/{number}"),
        ("/greetings/hello", "/greetings/{name}"),
        ("/openapi.json", "/openapi.json"),
        ("/sub/acme/nowhere", "unmatched"),
        ("/sub/acme/media/eu/nowhere", "unmatched"),
        ("/v1/tenants/acme/nowhere", "unmatched"),
    ],
)
async def test_a_template_is_whole_through_routers_and_mounts(
    path: str, route: str
) -> None:
    service = telephony()
    await service.get(path)

    assert service.routes == [route]


async def test_behind_a_proxy_that_adds_a_path_templates_stay_as_they_are() -> None:
    service = telephony()
    for path in ("/api/v1/tenants/acme/calls/1", "/api/sub/acme/deep/calls/1"):
        await Exchange("GET", path, root_path="/api").run(service.app)
    await Exchange("GET", "/api/metrics", root_path="/api").run(service.app)

    assert service.routes == [
        "/v1/tenants/{tenant}/calls/{call_id}",
        "/sub/{tenant}/deep/calls/{call_id}",
    ]


async def test_a_mounted_application_may_count_for_itself() -> None:
    service = Service()

    @service.app.get("/users/{user_id}")
    async def show(user_id: str) -> str:
        return user_id

    outer = FastAPI()
    outer.mount("/sub/{tenant}", service.app)
    await Exchange("GET", "/sub/acme/users/7").run(outer)

    assert service.routes == ["/sub/{tenant}/users/{user_id}"]


async def test_around_the_finished_application_it_sees_the_same() -> None:
    registry = CollectorRegistry()
    app = MetricsMiddleware(telephony().app, registry=registry)
    await Exchange("GET", "/v1/tenants/acme/calls/1").run(app)

    labels = {
        "method": "GET",
        "route": "/v1/tenants/{tenant}/calls/{call_id}",
        "status": "200",
    }
    assert registry.get_sample_value("http_requests_total", labels) == 1


async def test_an_unhandled_exception_is_500_and_passes_on() -> None:
    service = Service()

    @service.app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await service.get("/broken")

    assert service.counts == {("GET", "/broken", "500"): 1}
    assert service.in_progress == 0


async def test_so_is_one_after_the_response_has_started() -> None:
    service = Service()

    async def voicemail() -> AsyncIterator[bytes]:
        yield b"Hello"
        raise ZeroDivisionError

    @service.app.get("/voicemail")
    async def listen() -> StreamingResponse:
        return StreamingResponse(voicemail())

    with pytest.raises(ZeroDivisionError):
        await service.get("/voicemail")

    assert service.counts == {("GET", "/voicemail", "500"): 1}
    assert service.in_progress == 0


async def test_a_cancelled_request_is_499() -> None:
    service = Service()
    is_in = asyncio.Event()

    @service.app.get("/slow")
    async def slow() -> None:
        is_in.set()
        await asyncio.Event().wait()

    request = asyncio.create_task(service.get("/slow"))
    await is_in.wait()
    assert service.in_progress == 1
    request.cancel()
    await asyncio.wait([request])

    assert request.cancelled()
    assert service.counts == {("GET", "/slow", "499"): 1}
    assert service.in_progress == 0


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_client_that_leaves_a_stream_is_499(spec_version: str) -> None:
    service = Service()
    exchange = Exchange("GET", "/music", asgi={"spec_version": spec_version})

    async def music() -> AsyncIterator[bytes]:
        yield b"la"
        exchange.leave()
        while True:
            await asyncio.sleep(0)
            yield b"la"

    @service.app.get("/music")
    async def listen() -> StreamingResponse:
        return StreamingResponse(music())

    async def send(message: Message) -> None:
        if exchange.sent[1:] and spec_version == "2.4":
            raise OSError  # which servers of this version raise
        await exchange.send(message)

    await asyncio.gather(
        service.app(exchange.scope, exchange.receive, send), return_exceptions=True
    )

    assert service.counts == {("GET", "/music", "499"): 1}
    assert service.in_progress == 0


async def test_a_send_that_fails_is_a_client_that_has_left(service: Service) -> None:
    async def send(_: Message) -> None:
        raise ConnectionResetError  # as servers do since version 2.4 of ASGI

    exchange = Exchange("GET", "/users/7", asgi={"spec_version": "2.4"})
    with pytest.raises(ConnectionResetError):
        await service.app(exchange.scope, exchange.receive, send)

    assert service.counts == {("GET", "/users/{user_id}", "499"): 1}
    assert service.in_progress == 0


async def test_an_os_error_of_the_handler_s_own_is_500() -> None:
    service = Service()

    @service.app.get("/broken")
    async def broken() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await service.get("/broken")

    assert service.counts == {("GET", "/broken", "500"): 1}


@pytest.mark.parametrize(("is_read", "status"), [(True, "499"), (False, "200")])
async def test_over_a_socket_a_client_that_leaves_is_499_where_it_is_seen_to(
    *, is_read: bool, status: str
) -> None:
    service = Service()
    is_in, may_go_on, is_over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @service.app.post("/greeting")
    async def record(request: Request) -> int:
        is_in.set()
        if is_read:
            return len(await request.body())
        await may_go_on.wait()
        return 7

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.gather(service.app(scope, receive, send), return_exceptions=True)
        is_over.set()

    async with live_server(watch) as server, asyncio.timeout(PATIENCE):
        connection = await server.connect()
        await connection.write(
            b"POST /greeting HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nshort"
        )
        await is_in.wait()
        assert service.in_progress == 1
        connection.close()
        await connection.writer.wait_closed()
        may_go_on.set()
        await is_over.wait()

    assert service.counts == {("POST", "/greeting", status): 1}
    assert service.in_progress == 0


async def test_a_client_that_leaves_while_it_sends_is_499() -> None:
    service = Service()

    @service.app.post("/greeting")
    async def record(request: Request) -> None:
        async for _ in request.stream():
            exchange.leave()

    exchange = Exchange("POST", "/greeting", body=[b"Hel", b"lo"])
    await asyncio.gather(exchange.run(service.app), return_exceptions=True)

    assert service.counts == {("POST", "/greeting", "499"): 1}
    assert service.in_progress == 0


async def test_an_application_that_says_nothing_is_500() -> None:
    registry = CollectorRegistry()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    await Exchange().run(MetricsMiddleware(silent, registry=registry))

    labels = {"method": "GET", "route": "unmatched", "status": "500"}
    assert registry.get_sample_value("http_requests_total", labels) == 1


async def test_the_duration_has_the_stream_and_not_what_runs_after_it() -> None:
    service = Service()
    afterwards = asyncio.Event()

    async def voicemail() -> AsyncIterator[bytes]:
        for _ in range(3):
            service.now += 2
            yield b"Hello"

    async def clean_up() -> None:
        assert service.in_progress == 0
        service.now += 60
        afterwards.set()

    @service.app.get("/voicemail")
    async def listen(tasks: BackgroundTasks) -> StreamingResponse:
        tasks.add_task(clean_up)
        return StreamingResponse(voicemail(), background=tasks)

    await service.get("/voicemail")

    assert afterwards.is_set()
    assert service.seconds("/voicemail") == 6
    assert service.counts == {("GET", "/voicemail", "200"): 1}


async def test_a_background_task_that_fails_leaves_the_answer_counted_as_it_was() -> (
    None
):
    service = Service()

    def fail() -> None:
        raise ZeroDivisionError

    @service.app.get("/calls")
    async def calls(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    with pytest.raises(ZeroDivisionError):
        await service.get("/calls")

    assert service.counts == {("GET", "/calls", "200"): 1}
    assert service.in_progress == 0


async def test_a_file_that_the_server_sends_ends_the_request() -> None:
    registry = CollectorRegistry()

    async def by_path(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/greeting.wav"})

    await Exchange().run(MetricsMiddleware(by_path, registry=registry))

    labels = {"method": "GET", "route": "unmatched", "status": "200"}
    assert registry.get_sample_value("http_requests_total", labels) == 1


async def test_chunks_are_passed_on_as_they_come(service: Service) -> None:
    may_end = asyncio.Event()

    async def voicemail() -> AsyncIterator[bytes]:
        yield b"first"
        await may_end.wait()
        yield b"last"

    @service.app.get("/voicemail")
    async def listen() -> StreamingResponse:
        return StreamingResponse(voicemail())

    exchange = Exchange("GET", "/voicemail")
    request = asyncio.create_task(exchange.run(service.app))
    await exchange.until(lambda sent: len(sent) == 2)
    assert exchange.chunks == [b"first"]
    may_end.set()
    await request

    assert exchange.chunks == [b"first", b"last", b""]


async def test_websockets_and_lifespan_are_not_counted(service: Service) -> None:
    seen: list[str] = []

    @service.app.websocket("/events")
    async def events(socket: WebSocket) -> None:
        seen.append(socket.url.path)
        await socket.close()

    exchange = Exchange()
    scope = websocket_scope("/events")
    await service.app(scope, exchange.receive, exchange.send)
    async with service.app.router.lifespan_context(service.app):
        pass
    await service.app(
        {"type": "lifespan", "app": service.app, "state": {}}, startup, exchange.send
    )

    assert seen == ["/events"]
    assert "lifespan.startup.complete" in [one["type"] for one in exchange.sent]
    assert service.counts == {}


async def startup() -> dict[str, str]:
    """Tell an application to start, and then to stop."""
    return {"type": STEPS.pop(0)}


STEPS = ["lifespan.startup", "lifespan.shutdown"]


async def test_the_scrape_page_shows_all_requests_but_its_own() -> None:
    app = create_app()
    await Exchange("GET", "/v1/extensions/1001").run(app)
    page = ""
    for _ in range(2):
        page = (await Exchange("GET", "/metrics").run(app)).body.decode()

    route = 'method="GET",route="/v1/extensions/{number}"'
    assert f'http_requests_total{{{route},status="200"}} 1.0' in page
    assert "http_requests_in_progress 0.0" in page
    assert "/metrics" not in page


async def test_where_openmetrics_is_scraped_the_last_request_id_is_an_exemplar() -> (
    None
):
    app = create_app()
    for name in ("r-1", "r-2"):
        state = {"request_id": name}
        await Exchange("GET", "/v1/extensions/1001", state=state).run(app)
    kinds = "application/openmetrics-text; version=1.0.0", "text/plain"
    new, old = [
        (await Exchange("GET", "/metrics", [("Accept", kind)]).run(app)).body.decode()
        for kind in kinds
    ]

    route = 'method="GET",route="/v1/extensions/{number}"'
    count = f'http_requests_total{{{route},status="200"}} 2.0'
    assert f'{count} # {{request_id="r-2"}} 1.0 ' in new
    assert new.count('# {request_id="r-2"}') == 2  # the other is in a bucket
    assert count in old
    assert "r-2" not in old
    assert "r-1" not in new


@pytest.mark.parametrize("name", ["a" * 118, "a" * 119, "a" * 128, "", None, 7])
async def test_an_id_that_fits_into_no_exemplar_is_left_out_and_harms_nobody(
    name: object, service: Service
) -> None:
    await Exchange("GET", "/users/7", state={"request_id": name}).run(service.app)

    [exemplar] = [
        sample.exemplar
        for metric in service.registry.collect()
        for sample in metric.samples
        if sample.name == "http_requests_total"
    ]
    fits = 0 < len(str(name or "")) <= 118
    assert (exemplar and exemplar.labels) == (
        {"request_id": str(name)} if fits else None
    )


class Counted(Route):
    """A route that counts how often it is matched."""

    asked = 0

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Count."""
        self.asked += 1
        return super().matches(scope)


async def test_however_many_ask_for_a_template_routes_are_matched_once_for_it(
    proof: Proof,
) -> None:
    async def plain(_: Request) -> Response:
        return PlainTextResponse("ok")

    app = FastAPI()
    route = Counted("/plain/{number}", plain)
    app.mount("/media", Starlette(routes=[route]))
    scope = (await Exchange("GET", "/media/plain/7").run(app)).scope
    by_framework = route.asked
    templates = [route_template(scope) for _ in range(3)]

    assert templates == ["/media/plain/{number}"] * 3
    assert (by_framework, route.asked) == (1, 2)
    proof.cost("the template of a mounted route, asked for 3 times", matches=1)


async def test_a_route_of_the_application_is_not_matched_for_its_template() -> None:
    app = FastAPI()
    calls: list[str] = []

    class Own(APIRoute):
        """A route that notes when it is matched."""

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            """Note it."""
            calls.append(scope["path"])
            return super().matches(scope)

    app.router.route_class = Own
    app.add_api_route("/calls/{call_id}", lambda call_id: call_id)
    scope = (await Exchange("GET", "/calls/7").run(app)).scope

    assert route_template(scope) == "/calls/{call_id}"
    assert calls == ["/calls/7"]


async def test_one_route_that_stands_in_two_places_has_the_template_of_each() -> None:
    service = Service()
    calls = APIRouter()

    @calls.get("/calls/{call_id}")
    async def show(call_id: str) -> str:
        return call_id

    service.app.router.routes.extend(calls.routes)
    service.app.include_router(calls, prefix="/v1")
    for path in ("/calls/7", "/v1/calls/7"):
        await service.get(path)

    assert service.routes == ["/calls/{call_id}", "/v1/calls/{call_id}"]


async def test_only_whole_segments_are_excluded(service: Service) -> None:
    for path in ("/metrics", "/metrics/", "/metrics/all", "/metricsandmore"):
        await service.get(path)

    assert service.counts == {("GET", "unmatched", "404"): 1}


@pytest.mark.parametrize("way", ["../users/7", "./x", "a/../../b", "..", "..\\users"])
async def test_no_way_out_of_an_excluded_path_is_excluded(
    way: str, service: Service
) -> None:
    await service.get(f"/metrics/{way}")

    assert service.counts == {("GET", "unmatched", "404"): 1}


@pytest.mark.parametrize("excluded", ["/metrics", ["/"], [""], ["metrics"]])
def test_what_would_exclude_everything_or_nothing_is_refused(
    excluded: str | list[str],
) -> None:
    with pytest.raises(ValueError, match="no paths below the root"):
        MetricsMiddleware(FastAPI(), registry=CollectorRegistry(), excluded=excluded)


async def test_where_nothing_is_excluded_all_is_counted() -> None:
    registry = CollectorRegistry()
    app = MetricsMiddleware(FastAPI(), registry=registry, excluded=())
    for path in ("/metrics", "/", ""):
        await Exchange("GET", path).run(app)

    labels = {"method": "GET", "route": "unmatched", "status": "404"}
    assert registry.get_sample_value("http_requests_total", labels) == 3


def test_the_clock_is_one_that_nobody_sets() -> None:
    middleware = MetricsMiddleware(FastAPI(), registry=CollectorRegistry())

    assert middleware.clock is monotonic


async def test_two_applications_in_one_process_count_apart() -> None:
    first, second = create_app(), create_app()
    await Exchange("GET", "/v1/extensions/1001").run(first)
    page = (await Exchange("GET", "/metrics").run(second)).body.decode()
    await Exchange("GET", "/metrics").run(first)

    assert "extensions" not in page


async def test_a_hundred_requests_at_once_are_counted_once_each() -> None:
    service = Service()
    all_are_in = asyncio.Barrier(101)

    @service.app.get("/calls/{number}")
    async def show(number: int) -> int:
        await all_are_in.wait()
        await all_are_in.wait()
        return number

    requests = [
        asyncio.create_task(service.get(f"/calls/{number}")) for number in range(100)
    ]
    await all_are_in.wait()
    assert service.in_progress == 100
    await all_are_in.wait()
    await asyncio.gather(*requests)

    assert service.counts == {("GET", "/calls/{number}", "200"): 100}
    assert service.in_progress == 0


async def test_the_naive_version_makes_a_series_for_each_path(proof: Proof) -> None:
    app, registry = FastAPI(), CollectorRegistry()
    app.add_middleware(PathMetricsMiddleware, registry=registry)

    @app.get("/users/{user_id}")
    async def show(user_id: str) -> str:
        return user_id

    for number in range(1000):
        await Exchange("GET", f"/users/{number}").run(app)

    paths = {
        labels["path"]
        for name, labels, _ in samples(registry)
        if name == "requests_total"
    }
    assert len(paths) == 1000
    proof.breaks(
        "1,000 requests, each for another user",
        f"{len(paths):,} values of one label, and {len(samples(registry)):,} series",
    )


async def test_the_naive_version_never_counts_what_fails(proof: Proof) -> None:
    app, registry = FastAPI(), CollectorRegistry()
    app.add_middleware(PathMetricsMiddleware, registry=registry)

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Exchange("GET", "/broken").run(app)

    assert registry.get_sample_value("active") == 1
    assert "requests_total" not in {name for name, _, _ in samples(registry)}
    proof.breaks(
        "The handler raises", "it is not counted, and the gauge stays at 1 for ever"
    )
