"""Count and time HTTP requests for Prometheus, with labels that no client can multiply.

The route label is the template, such as `/v1/users/{user_id}`, complete through
included routers and mounts; whatever no route matched shares one value, and so do
invented methods. A request lasts until the last byte of its body is handed to the
server. An unhandled exception counts as 500, also where the response had begun; a
client that left, or a cancellation, as 499. The gauge goes down in every case.
Websockets, lifespan and the scrape endpoint are not counted. Where OpenMetrics is
scraped, counts and buckets have the id of their last request as an exemplar.

Source: https://prometheus.io/docs/practices/naming/ and RFC 9110 for the methods.
"""

import time
from asyncio import CancelledError
from collections.abc import Callable, Collection, Sequence
from http import HTTPMethod

from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNMATCHED, OTHER = "unmatched", "OTHER"
TEMPLATE = "http_metrics.template"
CLIENT_CLOSED_REQUEST = 499
LONGEST_ID = 118  # an exemplar holds 128 characters, and ten are the name
METHODS = frozenset(HTTPMethod)
LAST = "http.response.body", "http.response.pathsend"


class MetricsMiddleware:
    """Three metrics of all HTTP requests, in a registry of the application's own.

    `http_requests_total` has the labels method, route and status,
    `http_request_duration_seconds` method and route, and
    `http_requests_in_progress` none, for no route is known while a request arrives.
    `excluded` are paths below the application's root, and what is below them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        registry: CollectorRegistry,
        excluded: Collection[str] = ("/metrics",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the metrics; raises `ValueError` if the registry has them already."""
        self.app, self.clock = app, clock
        self.excluded = tuple(f"{path.rstrip('/')}/" for path in excluded)
        labels = "method", "route", "status"
        name, text = "http_requests_total", "HTTP requests that have ended."
        self.requests = Counter(name, text, labels, registry=registry)
        name = "http_request_duration_seconds"
        text = "Seconds until the last byte of the response."
        self.duration = Histogram(name, text, labels[:2], registry=registry)
        name = "http_requests_in_progress"
        self.in_progress = Gauge(name, "HTTP requests now served.", registry=registry)
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count it once when it is over."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or f"{path}/".startswith(self.excluded):
            await self.app(scope, receive, send)
            return
        began, status = self.clock(), 0
        is_over = has_left = False

        def end(status: int) -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self.in_progress.dec()
                self._count(scope, status, self.clock() - began)

        async def receive_and_see() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        async def send_and_see(message: Message) -> None:
            nonlocal status
            await send(message)
            status = message.get("status", status)
            if message["type"] in LAST and not message.get("more_body"):
                end(CLIENT_CLOSED_REQUEST if has_left else status)

        self.in_progress.inc()
        try:
            await self.app(scope, receive_and_see, send_and_see)
        except (CancelledError, ClientDisconnect):
            has_left = True
            raise
        finally:
            end(CLIENT_CLOSED_REQUEST if has_left else 500)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else OTHER
        labels = method, route_template(scope), status
        if (series := self._series.get(labels)) is None:
            series = self.requests.labels(*labels), self.duration.labels(*labels[:2])
            self._series[labels] = series
        name = str(scope.get("state", {}).get("request_id") or "")
        exemplar = {"request_id": name} if 0 < len(name) <= LONGEST_ID else None
        series[0].inc(1, exemplar)
        series[1].observe(seconds, exemplar)


def route_template(scope: Scope) -> str:
    """Return the whole template of the route that a routed request went to.

    The scope's own `route` lacks the prefix of an included router, and its root path
    has a mount's parameters filled in. So unless it is one of the application's own,
    the routes are asked once more; who asks next finds the answer in the scope.
    """
    if "endpoint" not in scope:
        return UNMATCHED
    if TEMPLATE not in scope:
        root = scope.get("app_root_path", scope.get("root_path", ""))
        routes, taken = scope["router"].routes, scope.get("route")
        own = [one for one in routes if one is taken and isinstance(one, Route)]
        if own and own[0].path_regex.match(scope["path"].removeprefix(root)):
            scope[TEMPLATE] = own[0].path
        else:
            wanted = "type", "method", "path", "headers"
            fresh = {name: scope[name] for name in wanted} | {"root_path": root}
            scope[TEMPLATE] = _template(routes, fresh) or UNMATCHED
    return str(scope[TEMPLATE])


def _template(routes: Sequence[BaseRoute], scope: Scope) -> str | None:
    partial = None
    for route in iter_route_contexts(routes):
        match, child_scope = route.matches(scope)
        if match is Match.NONE:
            continue
        template = route.path or ""
        if (mounted := getattr(route, "routes", None)) is not None:
            below = _template(mounted, {**scope, **child_scope})
            if mounted and below is None:
                return None
            template += below or "/{path}"
        if match is Match.FULL:
            return template
        partial = partial or template  # only the method differs: status 405
    return partial
