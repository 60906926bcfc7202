"""Write exactly one record for each HTTP request, with nothing secret in it.

The record is written when the last byte of the answer was handed to the server; if it
never is, when the application has ended. Its `access` has method, route, path, query,
status, milliseconds on a monotonic clock, bytes of the answer, and the client's
address. A client that left, or a cancellation, has the status 499, an exception 500,
also where the answer had begun; both name the exception. Level is ERROR from 500 on.

Headers and the request's body are logged only with `content`, which production refuses.
Of a body at most `body_cap` bytes are held: a longer one is logged by its size alone.
The application is given every byte, and each chunk of the answer is passed on at once.

Two files travel along: `redactor`, which masks, and `client_address`.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from snippets.middleware.client_address import client_address
from snippets.middleware.redactor import MASK, Redactor

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_CLOSED_REQUEST = 499
SERVER_ERROR = 500
LAST = {"http.response.body", "http.response.pathsend"}

logger = logging.getLogger(__name__)


def declared_route(scope: Scope) -> str | None:
    """Return the template of the route, as it was declared in its own router."""
    return getattr(scope.get("route"), "path", None)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What is logged, and of whom.

    Requests to `exempt` paths and what is below them are not. `trusted_proxies` is how
    many of your proxies each request passes. `route` is asked after routing. `content`
    is for finding faults; it raises `ValueError` unless `environment` is not production.
    """

    exempt: tuple[str, ...] = ()
    trusted_proxies: int = 0
    content: bool = False
    environment: str = "production"
    body_cap: int = 10_240
    redactor: Redactor = field(default_factory=Redactor)
    route: Callable[[Scope], str | None] = declared_route
    clock: Callable[[], float] = perf_counter

    def __post_init__(self) -> None:
        """Refuse to log content in production."""
        if self.content and self.environment.strip().lower().startswith("prod"):
            raise ValueError("content is not logged in production")


class RequestLoggingMiddleware:
    """Logs each HTTP request once; websockets and lifespan pass."""

    def __init__(self, app: ASGIApp, options: LogOptions | None = None) -> None:
        """Wrap `app`."""
        self.app = app
        self.options = options or LogOptions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write its record."""
        if scope["type"] != "http" or self._is_exempt(scope):
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self.options, scope, receive, send)
        error: BaseException | None = None
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            exchange.log(error)

    def _is_exempt(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        exempt = (one.rstrip("/") for one in self.options.exempt)
        return any(f"{path}/".startswith(f"{one}/") for one in exempt)


class _Exchange:
    """What is known of one request so far."""

    def __init__(
        self, options: LogOptions, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.options, self.scope = options, scope
        self._receive, self._send = receive, send
        self.began = options.clock()
        self.status = self.sent = self.size = 0
        self.kept = bytearray()
        self.has_left = self.is_logged = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.has_left = self.has_left or message["type"] == "http.disconnect"
        if self.options.content:
            chunk = message.get("body", b"")
            self.size += len(chunk)
            if self.size <= self.options.body_cap:
                self.kept += chunk
            else:
                self.kept.clear()  # half a body cannot be redacted, so why hold it
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            self.has_left = True
            raise
        self.status = message.get("status", self.status)
        self.sent += len(message.get("body", b""))
        if message["type"] in LAST and not message.get("more_body"):
            self.log(None)

    def log(self, error: BaseException | None) -> None:
        if self.is_logged:
            return
        self.is_logged = True
        status = self.status
        if error or self.has_left or not status:
            left = self.has_left or isinstance(error, CancelledError)
            status = CLIENT_CLOSED_REQUEST if left else SERVER_ERROR
        access = self._access(status)
        if error:
            access["error"] = type(error).__name__
        level = logging.ERROR if status >= SERVER_ERROR else logging.INFO
        words = access["method"], access["path"], status
        logger.log(level, "%s %s %d", *words, extra={"access": access})

    def _access(self, status: int) -> dict[str, object]:
        scope, options, redactor = self.scope, self.options, self.options.redactor
        path = scope["path"]
        for name, value in scope.get("path_params", {}).items():
            if redactor.is_secret(name):
                path = path.replace(str(value), MASK)
        access: dict[str, object] = {
            "request_id": scope.get("state", {}).get("request_id"),
            "client": client_address(scope, trusted_proxies=options.trusted_proxies),
            "method": redactor.text(scope["method"]),
            "route": options.route(scope),
            "path": redactor.text(path),
            "query": redactor.query(scope["query_string"].decode("latin-1")),
            "status": status,
            "milliseconds": round(1000 * (options.clock() - self.began), 3),
            "bytes": self.sent,
        }
        if options.content:
            headers = redactor.headers(scope["headers"])
            kept = redactor.body(bytes(self.kept), headers.get("content-type", ""))
            is_whole = self.size <= options.body_cap
            access["headers"] = headers
            access["body"] = kept if is_whole else f"<{self.size} bytes>"
        return access
