"""What the tests of errors share: ids of requests, a client, and calls without one."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    import pytest
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CANARY = "canary-4f1c"
"""A secret that must not get out."""
PROBLEM = "application/problem+json"


@dataclass
class RequestIds:
    """Gives each request an id, in its state and in a header, around an application."""

    app: ASGIApp
    count: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request."""
        self.count += 1
        identity = f"request-{self.count}"
        scope.setdefault("state", {})["request_id"] = identity

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"x-request-id", identity.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self.app(scope, receive, with_id)


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client to whom exceptions of the application are a status, as to all."""
    transport = httpx.ASGITransport(app=RequestIds(app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        yield client


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem document of an answer, after asserting that it is one."""
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    assert int(response.headers["content-length"]) == len(response.content)
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["instance"] == response.request.url.raw_path.decode().split("?")[0]
    return document


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the snippets and the framework logged."""
    mine = ("snippets.", "uvicorn", "fastapi", "starlette")
    return [one for one in caplog.records if one.name.startswith(mine)]


def log_text(caplog: pytest.LogCaptureFixture) -> str:
    """Return all that was logged, with tracebacks and the fields of the records."""
    formatter = logging.Formatter()
    found = [formatter.format(one) + repr(vars(one)) for one in caplog.records]
    return "\n".join(found)


@dataclass
class Exchange:
    """One request or handshake, and every message of the answer."""

    app: ASGIApp
    path: str = "/"
    method: str = "GET"
    kind: str = "http"
    query: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: Iterable[bytes] = (b"",)
    sent: list[Message] = field(default_factory=list)
    before_send: Callable[[Message], Awaitable[None]] | None = None

    async def run(self) -> None:
        """Let the application answer; what it raises is raised here."""
        chunks = list(self.chunks)
        pairs = self.headers.items()
        scope: Scope = {
            "type": self.kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "root_path": "",
            "scheme": "http",
            "query_string": self.query,
            "headers": [(key.encode(), value.encode()) for key, value in pairs],
            "subprotocols": [],
            "state": {"request_id": "request-7"},
        }

        async def receive() -> Message:
            if self.kind == "websocket":
                return {"type": "websocket.connect"}
            if not chunks:
                return {"type": "http.disconnect"}
            body = chunks.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(chunks)}

        async def send(message: Message) -> None:
            if self.before_send:
                await self.before_send(message)
            self.sent.append(message)

        await self.app(scope, receive, send)

    @property
    def starts(self) -> list[Message]:
        """The beginnings of answers, of which there should be one."""
        ends = ".response.start"
        return [one for one in self.sent if one["type"].endswith(ends)]

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(one.get("body", b"") for one in self.sent)

    def document(self) -> dict[str, Any]:
        """Return the body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an application on a loopback socket, with the server's log as it comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
