"""Give each request an id that its answer, its log records and its calls all carry.

`RequestIDMiddleware` names one request, `CorrelationIDMiddleware` all requests that
follow from one. Each takes the id from the request's header, or makes one, and puts it
into `request.state`, into a context variable and into the answer's header, which it has
exactly once. The request's own header is replaced too, so code behind the middleware
never meets a value that was refused: what is longer than 128 characters, or has others
than ASCII letters, digits and `._-`, is replaced by a new id. Of several headers the
first valid one counts.

Tasks, background tasks and threads started by asyncio or Starlette see the id of the
request that started them; a plain `threading.Thread` sees none. The body is never
touched, and no exception is caught: install it outermost, around the finished app, or
the answer to an unhandled exception goes without (see `header_context_wiring`).
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import httpx

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID_HEADER = "X-Request-ID"
CORRELATION_ID_HEADER = "X-Correlation-ID"
ID_LENGTH = 128
"""Characters that a column needs which stores an id."""
VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,%d}" % ID_LENGTH)
STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)


def random_id() -> str:
    """Return 32 hexadecimal digits that nobody has used or can guess."""
    return secrets.token_hex(16)


class HeaderContextMiddleware:
    """Carry one header from the request to its state, its context and its answer.

    A subclass names the `header`, and the `variable`, whose name is the state's key.
    """

    header: ClassVar[str]
    variable: ClassVar[ContextVar[str | None]]

    def __init__(
        self,
        app: ASGIApp,
        *,
        trust_inbound: bool = True,
        new_id: Callable[[], str] = random_id,
    ) -> None:
        """Wrap `app`. Without `trust_inbound` each request is given a new id."""
        self.app = app
        self.trust_inbound = trust_inbound
        self.new_id = new_id
        self.name = self.header.lower().encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the id for the time of a request or a websocket; pass what is neither."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == self.name]
        raw = self._valid(given) or self.new_id().encode("ascii")
        header, value = (self.name, raw), raw.decode("ascii")

        async def send_with_header(message: Message) -> None:
            if message["type"] in STARTS:
                headers = self._without(message.get("headers", ()))
                message = {**message, "headers": [*headers, header]}
            await send(message)

        if given != [raw]:
            scope["headers"] = [*self._without(scope["headers"]), header]
        scope.setdefault("state", {})[self.variable.name] = value
        token = self.variable.set(value)
        try:
            await self.app(scope, receive, send_with_header)
        finally:
            self.variable.reset(token)

    def _valid(self, given: list[bytes]) -> bytes | None:
        for value in given if self.trust_inbound else ():
            if VALID_ID.fullmatch(value):
                return value
        return None

    def _without(self, headers: Iterable[Header]) -> list[Header]:
        return [one for one in headers if one[0].lower() != self.name]


class RequestIDMiddleware(HeaderContextMiddleware):
    """Name one request, as `request.state.request_id` and `request_id`."""

    header = REQUEST_ID_HEADER
    variable = request_id


class CorrelationIDMiddleware(HeaderContextMiddleware):
    """Name all requests that follow from one, as `correlation_id`."""

    header = CORRELATION_ID_HEADER
    variable = correlation_id


def correlation_headers() -> dict[str, str]:
    """Return what a message or a request that is sent now should carry.

    It is empty where there is no correlation id, such as at start.
    """
    value = correlation_id.get()
    return {} if value is None else {CORRELATION_ID_HEADER: value}


async def forward_correlation_id(request: httpx.Request) -> None:
    """Add the id to an outgoing request that has none: a request hook of httpx."""
    for name, value in correlation_headers().items():
        request.headers.setdefault(name, value)


class HeaderContextFilter(logging.Filter):
    """Give each record `request_id` and `correlation_id`: `-` outside of a request.

    Outside, a record keeps what it came with. Add the filter to handlers: that of a
    logger does not see its children's records.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attributes, and let the record pass."""
        for variable in (request_id, correlation_id):
            value = variable.get() or getattr(record, variable.name, None)
            setattr(record, variable.name, value or "-")
        return True
