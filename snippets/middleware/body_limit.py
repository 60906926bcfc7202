"""Refuse request bodies above a limit, and answer each refusal in one way.

Starlette's own limit counts the bytes as they are read, and FastAPI overrides it for a
router or a route by `max_body_size`, larger or smaller. This puts it where a layer of
yours belongs, so ids and headers are on its refusals too, and makes one problem
document of the two that it sends: plain text where `Content-Length` is too large, and a
JSON detail where the bytes were. A 413 with other words is left as it is.

What is not read is not counted, but a `Content-Length` that is too large is refused all
the same, after the handler has run if it does not read. If the response has started
when the limit is passed, the exception aborts the connection. A route's limit takes
effect when the route is reached: a middleware that reads bodies meets the limit given
here. Websockets are not limited.

Source: https://fastapi.tiangolo.com/advanced/request-body-limits/, RFC 9110 for 413 and
RFC 9457 for the body.
"""

import json
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import (
    MAX_BODY_SIZE_SCOPE_KEY,
    RequestBodyLimitMiddleware,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOO_LARGE = 413
TITLE = "Content Too Large"
ORIGINALS = b"Content Too Large", b'{"detail":"Content Too Large"}'
"""The bodies of the two answers that become one."""


class BodyLimitMiddleware:
    """Limits the bodies of all HTTP requests to so many bytes; 0 allows none."""

    def __init__(self, app: ASGIApp, *, max_body_size: int) -> None:
        """Put the limit around `app`; raises `ValueError` if it is negative."""
        if max_body_size < 0:
            raise ValueError(f"{max_body_size} is not a number of bytes")
        self.app = RequestBodyLimitMiddleware(app, max_body_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and make a refusal a problem document."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None

        async def send_problem(message: Message) -> None:
            nonlocal start
            if message.get("status") == TOO_LARGE:
                start = message  # which of the two it is, the body will show
                return
            if start is not None:
                if message.get("body") in ORIGINALS:
                    message = {**message, "body": _problem(scope, start)}
                await send(start)
                start = None
            await send(message)

        await self.app(scope, receive, send_problem)


def _problem(scope: Scope, start: Message) -> bytes:
    path = "/" + scope["path"].lstrip("/")  # two slashes would begin a host
    problem = {
        "type": "about:blank",
        "title": TITLE,
        "status": TOO_LARGE,
        "detail": f"the body may have {scope[MAX_BODY_SIZE_SCOPE_KEY]} bytes at most",
        "instance": quote(path),
    }
    if request_id := scope.get("state", {}).get("request_id"):
        problem["request_id"] = request_id
    body = json.dumps(problem).encode()
    headers = MutableHeaders(scope=start)
    headers["Content-Type"] = "application/problem+json"
    headers["Content-Length"] = str(len(body))
    return body
