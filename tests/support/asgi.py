"""Speaks ASGI to an application in process, and raw bytes to it through uvicorn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def raw_headers(headers: Iterable[tuple[str, str | bytes]]) -> Headers:
    """Return headers as a server hands them over: names in lower case, as bytes."""
    return [
        (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers
    ]


def values_of(headers: Headers, name: str) -> list[str]:
    """Return the values of a header, one per line in which it stands."""
    wanted = name.lower().encode()
    return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]


def http_scope(
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str | bytes]] = (),
    **more: object,
) -> Scope:
    """Return the scope of a request, as uvicorn makes it."""
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw_headers([("host", "test"), *headers]),
        "client": ("192.0.2.1", 50000),
        "server": ("test", 80),
        "state": {},
        **more,
    }


def websocket_scope(
    path: str = "/", headers: Iterable[tuple[str, str | bytes]] = ()
) -> Scope:
    """Return the scope of a websocket handshake."""
    scope = http_scope(path=path, headers=headers, type="websocket", scheme="ws")
    del scope["method"]
    return {**scope, "subprotocols": []}


class Exchange:
    """One request, in the messages that a server and an application exchange.

    The body is handed over chunk by chunk; `received` counts how often more was asked
    for. After the last chunk the client stays, until `leave` is called.
    """

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Iterable[tuple[str, str | bytes]] = (),
        body: Iterable[bytes] = (),
        **scope: object,
    ) -> None:
        """Prepare a request; `scope` says what else its scope holds."""
        self.scope = http_scope(method, path, headers, **scope)
        self.sent: list[Message] = []
        self.received = 0
        self._chunks = list(body) or [b""]
        self._left = asyncio.Event()
        self._said = asyncio.Condition()

    async def run(self, app: ASGIApp) -> Self:
        """Run the application on this request; what it raises is raised here."""
        await app(self.scope, self.receive, self.send)
        return self

    def leave(self) -> None:
        """Close the connection, as a client does that has had enough."""
        self._left.set()

    async def until(self, said: Callable[[list[Message]], bool]) -> None:
        """Wait until what was sent so far is as asked."""
        async with self._said:
            await self._said.wait_for(lambda: said(self.sent))

    async def receive(self) -> Message:
        """Give the application the next chunk."""
        self.received += 1
        if self._chunks and not self._left.is_set():
            body = self._chunks.pop(0)
            more = bool(self._chunks)
            return {"type": "http.request", "body": body, "more_body": more}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        async with self._said:
            self.sent.append(message)
            self._said.notify_all()

    @property
    def start(self) -> Message:
        """The one message that starts the response."""
        [start] = [one for one in self.sent if one["type"] == "http.response.start"]
        return start

    @property
    def status(self) -> int:
        """The status of the response."""
        return int(self.start["status"])

    @property
    def headers(self) -> Headers:
        """The headers of the response."""
        return list(self.start.get("headers", ()))

    def values(self, name: str) -> list[str]:
        """Return the values of a response header, one per line in which it stands."""
        return values_of(self.headers, name)

    @property
    def chunks(self) -> list[bytes]:
        """The chunks of the response's body, in order."""
        bodies = [one for one in self.sent if one["type"] == "http.response.body"]
        return [one.get("body", b"") for one in bodies]

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return b"".join(self.chunks)


@dataclass
class Answer:
    """A response as it came over the socket."""

    status: int
    headers: Headers
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return the values of a header, one per line in which it stands."""
        return values_of(self.headers, name)


@dataclass
class Connection:
    """A client's side of a socket, on which a test writes what it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, Headers]:
        """Read the status and the headers of the next response."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        pairs = [line.split(b":", 1) for line in lines]
        headers = [(name.strip(), value.strip()) for name, value in pairs]
        return int(first.split()[1]), headers

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body; the last one is empty."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answer:
        """Read the next response to its end."""
        status, headers = await self.head()
        if values_of(headers, "transfer-encoding") == ["chunked"]:
            chunks = []
            while piece := await self.chunk():
                chunks.append(piece)
            return Answer(status, headers, b"".join(chunks))
        [length] = values_of(headers, "content-length") or ["0"]
        return Answer(status, headers, await self.reader.readexactly(int(length)))

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


@dataclass
class LiveServer:
    """A uvicorn that listens on a loopback port."""

    port: int
    _open: list[Connection] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> Connection:
        """Open a connection; it is closed with the server at the latest."""
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self._open.append(connection)
        return connection

    async def request(self, data: bytes) -> Answer:
        """Send bytes on a new connection, and read one response to its end."""
        connection = await self.connect()
        await connection.write(data)
        return await connection.answer()

    def hang_up(self) -> None:
        """Close all connections."""
        for connection in self._open:
            connection.close()


@asynccontextmanager
async def live_server(app: ASGIApp) -> AsyncIterator[LiveServer]:
    """Serve an application with uvicorn in this event loop, on a free port.

    Logging is left as it is, and no signal is caught.
    """
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    live = LiveServer(server.servers[0].sockets[0].getsockname()[1])
    try:
        yield live
    finally:
        live.hang_up()
        await server.shutdown()
