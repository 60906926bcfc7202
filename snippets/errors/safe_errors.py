"""Answer what nothing else answered, without a word of what went wrong.

It surrounds the finished application, since the framework sends its 500 from outside of
all middleware. An exception that nobody handled is logged once, with its traceback and
the request's id, and given to a hook; the client gets a problem document that says 500.
What middleware raises as `HTTPException` or sends as plain text, such as an early 413,
and every 5xx that is no problem document yet become one too, with the headers they had.

A request that was cancelled or whose client has left is not answered. If an answer has
begun, `ResponseCutOffError` is raised, so that the server closes the connection: half
of an answer must not look whole. Websockets pass untouched, and so does what a layer
outside raises when it is sent something.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

from fastapi import FastAPI
from fastapi.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snippets.errors.problem_details import (
    CLIENT_ERROR,
    MEDIA_TYPE,
    SERVER_ERROR,
    problem_response,
    request_id,
)

OnError = Callable[[Exception, Scope], object]
REPLACED = {b"content-type", b"content-length", b"content-encoding"}

logger = logging.getLogger(__name__)


class ResponseCutOffError(Exception):
    """An answer ended early; the log tells why under the request's id."""


def install_safety_net(
    app: FastAPI, *, environment: str, on_error: OnError | None = None
) -> ASGIApp:
    """Return the application to serve in place of `app`.

    `on_error` is given each unhandled exception after it was logged and answered.
    Raises `ValueError` for one with `debug=True`, which shows tracebacks, unless the
    environment is development or test.
    """
    if app.debug and environment not in ("development", "test"):
        raise ValueError(f"debug output in environment {environment!r}")
    return SafetyNet(app, debug=app.debug, on_error=on_error)


class SafetyNet:
    """The ASGI application around another; `install_safety_net` makes it."""

    def __init__(
        self, app: ASGIApp, *, debug: bool = False, on_error: OnError | None = None
    ) -> None:
        """Surround an application."""
        self.app, self.debug = app, debug
        self.on_error = on_error or (lambda *_: None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is safe to send, and replace what is not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send, debug=self.debug)
        try:
            await self.app(scope, receive, answer.send)
            await answer.replace()
        except ClientDisconnect:
            return  # nobody is there to be answered
        except Exception as error:
            if error is answer.refused:
                raise
            known = error if isinstance(error, HTTPException) else HTTPException(500)
            if known.status_code < SERVER_ERROR and not answer.started:
                await answer.fail(known)  # middleware raised it, past the handlers
                return
            named = request_id(scope)
            logger.exception("request %s failed", named, extra={"request_id": named})
            cut_off = answer.started and not answer.complete
            try:
                await answer.fail(known)
            finally:
                self.on_error(error, scope)
            if cut_off:
                raise ResponseCutOffError(f"request {named}") from None


class _Answer:
    """The answer to one request, as far as it has come."""

    def __init__(self, *asgi: *tuple[Scope, Receive, Send], debug: bool) -> None:
        (self._scope, self._receive, self._send), self._debug = asgi, debug
        self._held: Message | None = None
        self.refused: Exception | None = None
        self.started = self.complete = False

    async def send(self, message: Message) -> None:
        """Send what the application sends, or hold it to be replaced."""
        ends = message["type"] == "http.response.body" and not message.get("more_body")
        if message["type"] == "http.response.start" and self._is_unfit(message):
            self._held = message
        elif self._held is None:
            await self._forward(message)
        elif ends and self._held["status"] < SERVER_ERROR:
            await self.replace()  # a 5xx waits: its client may have left

    async def replace(self) -> None:
        """Send a problem document in place of what is held, if anything is."""
        held, self._held = self._held, None
        if held is not None and not self.started:
            response = problem_response(self._scope, HTTPException(held["status"]))
            kept = [pair for pair in held["headers"] if pair[0].lower() not in REPLACED]
            response.raw_headers = [*kept, *response.raw_headers]
            await response(self._scope, self._receive, self._forward)

    async def fail(self, error: HTTPException) -> None:
        """Answer with an error if nothing was sent yet, and somebody is there."""
        if not self.started:
            response = problem_response(self._scope, error)
            with suppress(ClientDisconnect):
                await response(self._scope, self._receive, self._forward)

    async def _forward(self, message: Message) -> None:
        if self.complete:
            return
        self.started = self.started or message["type"] == "http.response.start"
        try:
            await self._send(message)
        except OSError as error:  # so a server says that the client has left
            raise ClientDisconnect from error
        except Exception as error:
            self.refused = error
            raise
        if message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)

    def _is_unfit(self, start: Message) -> bool:
        media_type = Headers(raw=start["headers"]).get("content-type", "")
        kind = media_type.partition(";")[0].strip().lower()
        if start["status"] >= SERVER_ERROR:
            return kind != MEDIA_TYPE and not self._debug
        return start["status"] >= CLIENT_ERROR and kind in ("", "text/plain")
