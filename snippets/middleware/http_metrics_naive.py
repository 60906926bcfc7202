"""The metrics middleware that most services write first."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class PathMetricsMiddleware:
    """Requests by method, path and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        """Make the metrics."""
        self.app = app
        labels = ["method", "path", "status"]
        self.requests = Counter("requests", "Requests", labels, registry=registry)
        self.duration = Histogram("seconds", "Duration", labels, registry=registry)
        self.active = Gauge("active", "Requests now", registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.time()
        self.active.inc()

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                labels = scope["method"], scope["path"], message["status"]
                self.requests.labels(*labels).inc()
                self.duration.labels(*labels).observe(time.time() - started)
                self.active.dec()
            await send(message)

        await self.app(scope, receive, count)
