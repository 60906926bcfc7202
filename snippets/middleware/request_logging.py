"""Write exactly one record for each HTTP request, with nothing secret in it.

The record is written when the last byte of the answer was handed to the server, or else
when the application has ended. Its `access` has method, route, path, query, status,
milliseconds on a monotonic clock, bytes of the answer, and the client's address. A
client that left, or a cancellation, has the status 499, an exception 500, also where
the answer had begun; one that no answer follows is named. From 500 the level is ERROR.

Headers and the request's body are logged only with `content`, which production refuses.
At most `body_cap` bytes are held: a longer body is logged by its size alone. The
application is given every byte, and each chunk of the answer is passed on at once.

Two files travel along: `redactor`, which masks, and `client_address`.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from snippets.middleware.client_address import client_address
from snippets.middleware.redactor import Redactor

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = tuple[Scope, Receive, Send]
ASGIApp = Callable[[*Asgi], Awaitable[None]]
Route = Callable[[Scope], str | None]

CLIENT_CLOSED_REQUEST = 499
SERVER_ERROR = 500
LINE = "%(method)s %(path)s %(status)d"
LAST = {"http.response.body", "http.response.pathsend"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What is logged, and of whom.

    Requests to `exempt` paths and what is below them are not. `trusted_proxies` is how
    many of your proxies each request passes. `route` names the route; the default lacks
    the prefix of an included router. `content` raises `ValueError` in production.
    """

    exempt: Collection[str] = ()
    trusted_proxies: int = 0
    content: bool = False
    environment: str = "production"
    body_cap: int = 10_240
    redactor: Redactor = field(default_factory=Redactor)
    route: Route = lambda scope: getattr(scope.get("route"), "path", None)
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
        self.exempt = tuple(f"{one.rstrip('/')}/" for one in self.options.exempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write its record."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or f"{path}/".startswith(self.exempt):
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self.options, scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.log(SERVER_ERROR, error)
            raise
        exchange.log(SERVER_ERROR)  # which is nothing new if it has answered


class _Exchange:
    """What is known of one request so far."""

    def __init__(self, options: LogOptions, *asgi: *Asgi) -> None:
        self.options, (self.scope, self._receive, self._send) = options, asgi
        self.began = options.clock()
        self.status = self.sent = self.size = 0
        self.kept, self.has_left, self.is_logged = b"", False, False

    async def receive(self) -> Message:
        message = await self._receive()
        self.has_left = self.has_left or message["type"] == "http.disconnect"
        if self.options.content:
            self.size += len(chunk := message.get("body", b""))
            self.kept = (self.kept + chunk) * (self.size <= self.options.body_cap)
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
            self.log(self.status)

    def log(self, status: int, error: BaseException | None = None) -> None:
        if self.has_left or isinstance(error, CancelledError):
            status = CLIENT_CLOSED_REQUEST
        level = logging.ERROR if status >= SERVER_ERROR else logging.INFO
        was_logged, self.is_logged = self.is_logged, True
        if was_logged or not logger.isEnabledFor(level):
            return
        access = self._access(status)
        access["error"] = type(error).__name__ if error else None
        # Not `logger.log`, which looks for its caller: that is always this line.
        about = LINE, (access,), None, "log", {"access": access}
        logger.handle(logger.makeRecord(__name__, level, __file__, 0, *about))

    def _access(self, status: int) -> dict[str, object]:
        scope, options, redactor = self.scope, self.options, self.options.redactor
        access: dict[str, object] = {
            "request_id": scope.get("state", {}).get("request_id"),
            "client": client_address(scope, trusted_proxies=options.trusted_proxies),
            "method": redactor.text(scope["method"]),
            "route": options.route(scope),
            "path": redactor.path(scope["path"], scope.get("path_params", {})),
            "query": redactor.query(scope["query_string"].decode("latin-1")),
            "status": status,
            "milliseconds": round(1000 * (options.clock() - self.began), 3),
            "bytes": self.sent,
        }
        if options.content:
            access["headers"] = headers = redactor.headers(scope["headers"])
            kind = headers.get("content-type", "")
            access["body"] = redactor.body(self.kept, kind, size=self.size)
        return access
