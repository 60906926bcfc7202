"""A Redis for one test: embedded, the shared server, or a private one to break."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, Unpack

from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import BlockingConnectionPool, Redis

from tests.support.servers import address, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from redis.asyncio import Connection


class ClientOptions(TypedDict, total=False):
    """What a test may choose about a client; times are in seconds."""

    max_connections: int
    timeout: float | None
    socket_timeout: float
    decode_responses: bool
    protocol: int


@dataclass
class RedisServer:
    """One server, the clients made of it, and a key prefix of this test's own."""

    namespace: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")
    clients: list[Redis] = field(default_factory=list)

    def client(self, **options: Unpack[ClientOptions]) -> Redis:
        """Return another client of this server; it is closed after the test."""
        client = self._connect(**options)
        self.clients.append(client)
        return client

    def _connect(self, **options: Unpack[ClientOptions]) -> Redis:
        raise NotImplementedError

    async def close(self) -> None:
        """Delete this test's keys and close its clients."""
        cleaner = self.client()
        async for key in cleaner.scan_iter(match=f"{self.namespace}*", count=1000):
            await cleaner.delete(key)
        for client in self.clients:
            await client.aclose()


class _FakeClient(FakeAsyncRedis):
    """Lets other tasks run at each command, as a client on a network does."""

    async def execute_command(self, *args: object, **options: object) -> object:
        await asyncio.sleep(0)
        execute: Callable[..., Awaitable[object]] = super().execute_command
        return await execute(*args, **options)


@dataclass
class FakeRedisServer(RedisServer):
    """An embedded server; all its clients share one memory."""

    server: FakeServer = field(default_factory=lambda: FakeServer(version=(7,)))

    def _connect(self, **options: Unpack[ClientOptions]) -> Redis:
        return _FakeClient(server=self.server, **options)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuse every command inside the block."""
        self.server.connected = False
        try:
            yield
        finally:
            self.server.connected = True


@dataclass
class RealRedisServer(RedisServer):
    """The server at a URL."""

    url: str = field(default_factory=lambda: address("REDIS_URL"))

    def _connect(self, **options: Unpack[ClientOptions]) -> Redis:
        defaults: ClientOptions = {
            "max_connections": 50,
            "timeout": 20,
            "socket_timeout": 10,
        }
        pool = BlockingConnectionPool.from_url(self.url, **{**defaults, **options})
        return Redis.from_pool(pool)


@dataclass
class PrivateRedisServer(RealRedisServer):
    """A server of this test's own, which it may stop, start, pause and fill."""

    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server with empty memory and wait until it listens."""
        binary = shutil.which("redis-server")
        if binary is None:
            raise FileNotFoundError("redis-server is not installed; install Redis 7")
        where = ["--port", str(self.port), "--bind", "127.0.0.1"]
        in_memory = ["--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [binary, *where, *in_memory],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if b"Ready to accept connections" in line:
                return
        raise ConnectionError(f"redis-server did not start on port {self.port}")

    def stop(self) -> None:
        """Kill the server, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Run the block without the server; its memory is empty afterwards."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@asynccontextmanager
async def hasty(redis: Redis) -> AsyncIterator[None]:
    """Let the client's one open connection wait for a tenth of a second per answer.

    So a limit that is to be exceeded does not bound what comes before and after.
    """
    take: Callable[[], Awaitable[Connection]] = redis.connection_pool.get_connection
    connection = await take()
    await redis.connection_pool.release(connection)
    patience, connection.socket_timeout = connection.socket_timeout, 0.1
    try:
        yield
    finally:
        connection.socket_timeout = patience


@asynccontextmanager
async def fake_redis() -> AsyncIterator[FakeRedisServer]:
    """Yield an embedded server."""
    server = FakeRedisServer()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def real_redis() -> AsyncIterator[RealRedisServer]:
    """Yield the server at `REDIS_URL`; afterwards its namespace is deleted."""
    if reason := problem("REDIS_URL"):
        raise ConnectionError(reason)
    server = RealRedisServer()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def private_redis_server() -> AsyncIterator[PrivateRedisServer]:
    """Yield a running server on a free loopback port."""
    port = free_port()
    server = PrivateRedisServer(url=f"redis://127.0.0.1:{port}/0", port=port)
    server.start()
    try:
        yield server
    finally:
        for client in server.clients:
            await client.aclose()
        server.stop()


NOWHERE = "redis://127.0.0.1:1/0"
"""A Redis that is away: nobody listens on that port, nor will for another test."""


def free_port() -> int:
    """Return a loopback port for a server of one's own to listen on soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
