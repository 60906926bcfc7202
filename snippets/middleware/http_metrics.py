"""Count and time HTTP requests for Prometheus, with labels that no client can multiply.

The route label is the template, such as `/v1/users/{user_id}`, complete through
included routers and mounts; what no route matched shares one value, and so do invented
methods. A request lasts until the last byte of its body is handed to the server. An
unhandled exception is a 500, also where the response had begun. A cancellation is a
499, and so is a client that was seen to leave: where the request is read, the answer is
streamed or sending fails. While a handler works, nobody looks. Websockets do not count.
Source: https://prometheus.io/docs/practices/naming/ and RFC 9110 for the methods.
"""

import re
import time
from asyncio import CancelledError
from collections.abc import Callable, Collection, Sequence
from http import HTTPMethod

from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNMATCHED, OTHER, TEMPLATE = "unmatched", "OTHER", "http_metrics.template"
CLIENT_CLOSED_REQUEST, LONGEST_ID = 499, 118  # of an exemplar's 128 characters
LAST = "http.response.body", "http.response.pathsend"


class MetricsMiddleware:
    """Three metrics of all HTTP requests that are not below an `excluded` path.

    `http_requests_total` has the labels method, route and status, the histogram
    `http_request_duration_seconds` the first two, `http_requests_in_progress` none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        registry: CollectorRegistry,
        excluded: Collection[str] = ("/metrics",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raise `ValueError` for a registry that has these, or for other paths."""
        self.app, self.clock, self.excluded = app, clock, _below(excluded)
        labels = "method", "route", "status"
        name, text = "http_requests_total", "HTTP requests that have ended."
        self.requests = Counter(name, text, labels, registry=registry)
        name, text = "http_request_duration_seconds", "Seconds until the last byte."
        self.duration = Histogram(name, text, labels[:2], registry=registry)
        name = "http_requests_in_progress"
        self.in_progress = Gauge(name, "HTTP requests now served.", registry=registry)
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count it once when it is over."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or self.excluded.fullmatch(path):
            await self.app(scope, receive, send)
            return
        began, status, is_over, has_left = self.clock(), 0, False, False

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
            nonlocal status, has_left
            try:
                await send(message)
            except OSError:
                has_left = True
                raise
            status = message.get("status", status)
            if message["type"] in LAST and not message.get("more_body"):
                end(CLIENT_CLOSED_REQUEST if has_left else status)

        self.in_progress.inc()
        try:
            await self.app(scope, receive_and_see, send_and_see)
        except CancelledError:
            has_left = True
            raise
        finally:
            end(CLIENT_CLOSED_REQUEST if has_left else 500)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in HTTPMethod.__members__ else OTHER
        labels = method, route_template(scope), status
        if (series := self._series.get(labels)) is None:
            series = self.requests.labels(*labels), self.duration.labels(*labels[:2])
            self._series[labels] = series
        name = str(scope.get("state", {}).get("request_id") or "")
        exemplar = {"request_id": name} if 0 < len(name) <= LONGEST_ID else None
        series[0].inc(1, exemplar)
        series[1].observe(seconds, exemplar)


def _below(paths: Collection[str]) -> re.Pattern[str]:
    if not all(re.match("/[^/]", path) for path in paths):
        raise ValueError(f"{paths!r} are no paths below the root")
    roots = "|".join(re.escape(path.rstrip("/")) for path in paths) or "(?!)"
    return re.compile(rf"(?:{roots})(?:/(?!\.\.?(?:/|\Z))[^/\\]*)*")


def route_template(scope: Scope) -> str:
    """Return the whole template of the route that a routed request went to.

    The scope's own lacks an included router's prefix, and has a mount's parameters
    filled in; else all routes are asked once more, for whoever asks for this scope.
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
