"""Write exactly one record for each HTTP request, with nothing secret in it.

It is written when the last byte of the answer was handed to the server, or else when
the application has ended. Its `access` has method, route, path, query, status,
milliseconds on a monotonic clock, bytes of the answer, and the client's address. An
exception is a 500, also where the answer had begun; one that no answer follows is
named. A cancellation is a 499, and so is a client that was seen to leave: where the
request is read, the answer is streamed or sending fails. While a handler works, nobody
looks. From 500 the level is ERROR.

Of a path that no route took only the first segment is shown; where a parameter's name
is secret, the masked route is. Headers and body are logged only with `content`, which
production refuses, and at most `body_cap` bytes are held: a longer body is logged by
its size. The application is given every byte, and each chunk is passed on at once.
Two files travel along: `redactor`, which masks, and `client_address`.
"""

import logging
import re
from asyncio import CancelledError
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snippets.middleware.client_address import Networks, client_address
from snippets.middleware.redactor import Redactor

Asgi = tuple[Scope, Receive, Send]
Route = Callable[[Scope], str | None]

CLIENT_CLOSED_REQUEST, SERVER_ERROR = 499, 500
LINE = "%(method)s %(path)s %(status)d"
LAST = {"http.response.body", "http.response.pathsend"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What is logged, and of whom: not of `exempt` paths and what is below them.

    `trusted_proxies` has their networks. `route` returns a template, which begins with
    a slash; that of the default lacks the prefix of an included router.
    """

    exempt: Collection[str] = ()
    trusted_proxies: Networks = ()
    content: bool = False
    environment: str = "production"
    body_cap: int = 10_240
    redactor: Redactor = field(default_factory=Redactor)
    route: Route = lambda scope: getattr(scope.get("route"), "path_format", None)
    clock: Callable[[], float] = perf_counter

    def __post_init__(self) -> None:
        """Raise `ValueError` for content in production."""
        if self.content and self.environment.strip().lower().startswith("prod"):
            raise ValueError("content is not logged in production")


class RequestLoggingMiddleware:
    """Logs each HTTP request once; websockets and lifespan pass."""

    def __init__(self, app: ASGIApp, options: LogOptions | None = None) -> None:
        """Wrap `app`; raises `ValueError` if what is exempt is no path, or all are."""
        self.app, self.options = app, options or LogOptions()
        self.exempt = _below(self.options.exempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write its record."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or self.exempt.fullmatch(path):
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self.options, scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.log(SERVER_ERROR, error)
            raise
        exchange.log(SERVER_ERROR)  # which is nothing new if it has answered


def _below(paths: Collection[str]) -> re.Pattern[str]:
    if not all(re.match("/[^/]", path) for path in paths):
        raise ValueError(f"{paths!r} are no paths below the root")
    roots = "|".join(re.escape(path.rstrip("/")) for path in paths) or "(?!)"
    return re.compile(rf"(?:{roots})(?:/(?!\.\.?(?:/|\Z))[^/\\]*)*")


class _Exchange:
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
        route, values = options.route(scope), scope.get("path_params", {})
        access: dict[str, object] = {
            "request_id": scope.get("state", {}).get("request_id"),
            "client": client_address(scope, trusted_proxies=options.trusted_proxies),
            "method": redactor.text(scope["method"]),
            "route": route,
            "path": redactor.path(scope["path"], route, values),
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
