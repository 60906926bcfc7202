"""Servers that a Redis client reaches by TCP: an embedded one, and faulty ones."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from fakeredis import TcpFakeServer

GARBAGE = {
    "no protocol": b"nonsense\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "bytes": b"\xff\xfe\r\n",
    "a length that is none": b"$x\r\n",
    "a number": b":1\r\n",
    "a number that is none": b":x\r\n",
    "a list": b"*1\r\n:1\r\n",
    "a list without end": b"*1\r\n" * 3000,
    "a status": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "an error": b"-ERR no\r\n",
    "a redirection to nowhere": b"-MOVED 1\r\n",
}
"""What a server may say to each command, by what it is."""

COMMAND = re.compile(rb"(?m)^\*\d+\r\n\$\d+\r\n(\w+)\r$")


class _Listener(TcpFakeServer):
    """Does not turn away clients that connect all at once."""

    request_queue_size = 128


@contextmanager
def tcp_server(port: int = 0) -> Iterator[str]:
    """Yield the URL of an embedded server, in a thread of its own."""
    with _Listener(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class FaultyServer:
    """A listening socket; `connections` counts who came, `commands` what was asked."""

    reply: bytes | None
    hangs_up: bool = False
    port: int = 0
    connections: int = 0
    commands: int = 0

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read for ever, and answer each command with `reply`, if there is one."""
        self.connections += 1
        try:
            while received := await reader.read(65536):
                # Several may come at once; a client says its name with CLIENT.
                names = COMMAND.findall(received)
                self.commands += len(names) - names.count(b"CLIENT")
                if self.hangs_up and {*names} != {b"CLIENT"}:
                    break
                reply = b"+OK\r\n" if self.hangs_up else self.reply
                if reply is not None:
                    writer.write(reply * len(names))
                    await writer.drain()
        except ConnectionError:
            pass  # the client has had enough
        finally:
            writer.close()


@asynccontextmanager
async def faulty_server(
    reply: bytes | None = None, *, hangs_up: bool = False
) -> AsyncIterator[FaultyServer]:
    """Yield a server that accepts and says only `reply`; without one, never a word.

    One that hangs up lets clients introduce themselves, and closes the connection once
    it was asked something.
    """
    faulty = FaultyServer(reply, hangs_up)
    server = await asyncio.start_server(faulty.serve, "127.0.0.1", 0)
    faulty.port = server.sockets[0].getsockname()[1]
    try:
        yield faulty
    finally:
        server.close()
        await server.wait_closed()
