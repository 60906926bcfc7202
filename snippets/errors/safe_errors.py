"""Answer what nothing else answered, without a word of what went wrong.

It surrounds the finished application, since the framework sends its 500 from outside of
all middleware. An unhandled exception is logged once, with its traceback and the id of
the request, and given to a hook; the client gets a problem document that says 500. A
plain text 4xx becomes one too, with its headers, and so does a 5xx that is none.

Half an answer must not look whole: `ResponseCutOffError` makes the server cut it off. A
client that left is not answered; so a server says by `ConnectionError`, or an `OSError`
of a class not Python's. What else a layer outside raises then passes, as do websockets.
"""

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snippets.errors.problem_details import MEDIA_TYPE, problem_response, request_id

CLIENT_ERROR, SERVER_ERROR = 400, 500
DROPPED_4XX = re.compile(rb"(?i)content-(?!security)|etag|last-modified|transfer-")
DROPPED_5XX = re.compile(rb"(?i)(?!retry-after$)")
FAILED = "request %(request_id)s failed"
LAST = re.compile("body$|pathsend$")
OnError = Callable[[Exception, Scope], object]
logger = logging.getLogger(__name__)


class ResponseCutOffError(Exception):
    """An answer ended early; the log tells why under the request's id."""


def install_safety_net(
    app: FastAPI, *, environment: str, on_error: OnError | None = None
) -> ASGIApp:
    """Return the application to serve in place of `app`.

    `on_error`, no coroutine, is given what is logged. Raises `ValueError` for one that
    is, and for `debug=True`, which shows tracebacks, unless in development or test.
    """
    if app.debug and environment not in ("development", "test"):
        raise ValueError(f"debug output in environment {environment!r}")
    if iscoroutinefunction(on_error):
        raise ValueError("nobody would await the hook")
    return SafetyNet(app, app.debug, on_error or SafetyNet.on_error)


@dataclass
class SafetyNet:
    """The ASGI application around another; `install_safety_net` makes it."""

    app: ASGIApp
    debug: bool = False
    on_error: OnError = lambda *_: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is safe to send, and replace what is not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send, debug=self.debug)
        try:
            await self.app(scope, answer.receive, answer.send)
            answer.check()
        except Exception as error:
            gone, cause = isinstance(error, ClientDisconnect), error.__context__
            if answer.refused in (error, cause):
                raise
            if not (gone and answer.left):  # as Starlette says of any failing stream
                failure = cause if gone and isinstance(cause, OSError) else error
                await self._fail(answer, failure, scope)

    async def _fail(self, answer: "_Answer", error: Exception, scope: Scope) -> None:
        known = error if isinstance(error, HTTPException) else HTTPException(500)
        named = {"request_id": request_id(scope)}
        if answer.started or known.status_code >= SERVER_ERROR:
            logger.error(FAILED, named, exc_info=error, extra=named)
            try:
                self.on_error(error, scope)
            except Exception:
                logger.exception("the hook failed", extra=named)
        if answer.started and not answer.complete:
            raise ResponseCutOffError(f"request {named['request_id']}") from None
        await answer.fail(known)


class _Answer:
    """The answer to one request, as far as it has come."""

    def __init__(self, *asgi: *tuple[Scope, Receive, Send], debug: bool) -> None:
        (self._scope, self._receive, self._send), self._debug = asgi, debug
        self._held: Message = {}
        self.refused = Exception()  # is none yet
        self.left = self.started = self.complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.left = self.left or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        begins = message["type"] == "http.response.start"
        ends = bool(LAST.search(message["type"])) and not message.get("more_body")
        if begins and self._is_unfit(message):
            self._held = message
        elif self._held:
            if ends and self._held["status"] < SERVER_ERROR:
                await self.fail(HTTPException(self._held["status"]))
        elif not self.complete:
            self.started = self.started or begins
            try:
                await self._send(message)
            except Exception as error:
                python = type(error).__module__ == "builtins"
                if isinstance(error, ConnectionError if python else OSError):
                    self.left = True
                    raise ClientDisconnect from error
                self.refused = error
                raise
            self.complete = ends

    def check(self) -> None:
        if self._held:  # a 5xx, until now, as its client may have left
            raise HTTPException(self._held["status"])
        if not self.started and not self.left:
            raise RuntimeError("the application returned without an answer")

    async def fail(self, error: HTTPException) -> None:
        """Answer with an error if nothing was sent yet, and somebody is there."""
        held, self._held = self._held.get("headers", ()), {}
        if not self.started:
            dropped = DROPPED_5XX if error.status_code >= SERVER_ERROR else DROPPED_4XX
            response = problem_response(self._scope, error)
            response.raw_headers += [one for one in held if not dropped.match(one[0])]
            with suppress(ClientDisconnect):
                await response(self._scope, self._receive, self.send)

    def _is_unfit(self, start: Message) -> bool:
        headers = {name.lower(): value for name, value in start.get("headers", ())}
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if start["status"] >= SERVER_ERROR:
            return kind != MEDIA_TYPE.encode() and not self._debug
        return start["status"] >= CLIENT_ERROR and kind in (b"", b"text/plain")
