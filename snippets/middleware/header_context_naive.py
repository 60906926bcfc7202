"""The request id middleware that most services write first."""

import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from fastapi import FastAPI, Request, Response

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def add_request_id(app: FastAPI) -> None:
    """Take the caller's id or make one, and send it back."""

    @app.middleware("http")
    async def set_request_id(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        value = request.headers.get("X-Request-ID") or str(uuid.uuid4())
        request.state.request_id = value
        request_id.set(value)
        try:
            response = await call_next(request)
        finally:
            request_id.set(None)
        response.headers.append("X-Request-ID", value)
        return response
