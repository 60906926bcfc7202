"""A broker for one test: in memory, the shared RabbitMQ, or a node of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
import uuid
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import ChannelNotFoundEntity
from faststream.rabbit import RabbitMessage, TestRabbitBroker
from yarl import URL

from tests.support.redis_servers import free_port
from tests.support.servers import GREETINGS, address, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
    from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue

SBIN = Path("/usr/lib/rabbitmq/bin")
"""Where Debian keeps the scripts that do not change to another user."""
START_SECONDS = 90
POLL_SECONDS = 0.1
WAIT_SECONDS = 20


@dataclass
class BrokerServer:
    """One broker, and a prefix for the names of this test's queues and exchanges."""

    url: str = "amqp://guest:guest@127.0.0.1:5672/"
    namespace: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")
    names: set[str] = field(default_factory=set)

    def rename(self) -> None:
        """Take another prefix, for another test."""
        self.namespace = f"test-{uuid.uuid4().hex}"
        self.names.clear()

    def name(self, suffix: str) -> str:
        """Return a name of this test's own; what has it is deleted afterwards."""
        name = f"{self.namespace}.{suffix}"
        self.names.add(name)
        return name


@dataclass
class MemoryBrokerServer(BrokerServer):
    """FastStream's in-memory broker; those that run together share their messages."""

    @asynccontextmanager
    async def running(self, *brokers: RabbitBroker) -> AsyncIterator[None]:
        """Start the brokers with their subscribers; stop them after the block."""
        async with TestRabbitBroker(*brokers):
            yield


@dataclass
class RealBrokerServer(BrokerServer):
    """The RabbitMQ at a URL."""

    url: str = field(default_factory=lambda: address("RABBITMQ_URL"))

    @asynccontextmanager
    async def running(self, *brokers: RabbitBroker) -> AsyncIterator[None]:
        """Start the brokers with their subscribers; stop them after the block."""
        async with AsyncExitStack() as stack:
            for broker in brokers:
                stack.push_async_callback(broker.stop)
                await broker.start()
            yield

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """Yield a bare channel, to look at the server and not through the pattern."""
        connection = await aio_pika.connect(self.url, timeout=10)
        async with connection:
            yield await connection.channel(on_return_raises=True)

    async def version(self) -> str:
        """Return the server's version."""
        connection = await aio_pika.connect(self.url, timeout=10)
        async with connection:
            assert connection.transport is not None
            properties = connection.transport.connection.server_properties
            return str(properties["version"])

    async def depth(self, queue: str) -> int:
        """Return how many messages wait in a queue, without those being handled."""
        async with self.channel() as channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def exists(self, queue: str) -> bool:
        """Return whether there is a queue of this name."""
        try:
            await self.depth(queue)
        except ChannelNotFoundEntity:
            return False
        return True

    async def take(self, queue: str) -> AbstractIncomingMessage:
        """Wait for the next message of a queue, and acknowledge it."""
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        async with self.channel() as channel, asyncio.timeout(WAIT_SECONDS):
            await channel.set_qos(prefetch_count=1)
            declared = await channel.declare_queue(queue, passive=True)
            await declared.consume(arrived.put)
            message = await arrived.get()
            await message.ack()
            return message

    async def wait_for_depth(self, queue: str, depth: int) -> None:
        """Wait until this many messages wait in a queue.

        The server tells a client of no such change, so this must ask; it is for tests
        that wait for a broker's own doing, such as the end of a time to live.
        """
        async with self.channel() as channel, asyncio.timeout(WAIT_SECONDS):
            while True:
                declared = await channel.declare_queue(queue, passive=True)
                if declared.declaration_result.message_count == depth:
                    return

    async def close(self) -> None:
        """Delete this test's queues and exchanges."""
        async with self.channel() as channel:
            for name in sorted(self.names):
                await channel.queue_delete(name)
                await channel.exchange_delete(name)


AnyBroker = MemoryBrokerServer | RealBrokerServer


def collect(
    broker: RabbitBroker,
    queue: RabbitQueue | str,
    exchange: RabbitExchange | str | None = None,
) -> asyncio.Queue[RabbitMessage]:
    """Subscribe to a queue, and return where its messages will be."""
    got: asyncio.Queue[RabbitMessage] = asyncio.Queue()

    async def keep(message: RabbitMessage) -> None:
        await got.put(message)

    async def undecoded(message: RabbitMessage) -> bytes:
        return message.body

    broker.subscriber(queue, exchange, decoder=undecoded)(keep)
    return got


@dataclass
class PrivateBrokerServer(RealBrokerServer):
    """A node of this session's own, which a test may stop, kill and start."""

    folder: Path = Path()
    port: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node on what it had on disk, and wait for the AMQP handshake."""
        server = SBIN / "rabbitmq-server"
        if not server.exists():
            raise FileNotFoundError("rabbitmq-server is not installed; install it")
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [server],
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                text = (self.folder / "output").read_text("utf-8", "replace")
                raise ConnectionError(f"RabbitMQ did not start: {text[-2000:]}")

    def restart(self) -> None:
        """Stop the node in good order, and start it."""
        assert self.process is not None
        self.control("stop")
        self.process.wait()
        self.start()

    def kill(self) -> None:
        """End the node at once, as a crash of its machine would."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Run the block without the node; what was on disk is there afterwards."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def control(self, *command: str) -> str:
        """Run `rabbitmqctl` on the node, and return what it printed."""
        return subprocess.run(
            [SBIN / "rabbitmqctl", "--quiet", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(GREETINGS["RABBITMQ_URL"])
                connection.settimeout(5)
                return bool(connection.recv(1))
        except OSError:
            time.sleep(POLL_SECONDS)
            return False


@dataclass
class Proxy:
    """A loopback port in front of a broker, whose connections a test may cut."""

    target: tuple[str, int]
    port: int = 0
    listener: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """While this is not set, bytes are kept back in both directions."""

    async def open(self) -> None:
        """Take connections, on the same port as before."""
        self.listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Drop every connection, and take no more."""
        assert self.listener is not None
        self.listener.close()
        for writer in self.writers:
            writer.transport.abort()
        await self.listener.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, back = await asyncio.open_connection(*self.target)
        self.writers |= {writer, back}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, back))
                group.create_task(self._copy(there, writer))
        except* ConnectionError:
            pass  # that is what a cut looks like
        finally:
            for one in (writer, back):
                one.transport.abort()
            self.writers -= {writer, back}

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy(server: RealBrokerServer) -> AsyncIterator[tuple[Proxy, str]]:
    """Yield a proxy of a server, and the URL that goes through it."""
    url = URL(server.url)
    between = Proxy((url.host or "127.0.0.1", url.port or 5672))
    between.flowing.set()
    await between.open()
    try:
        yield between, str(url.with_host("127.0.0.1").with_port(between.port))
    finally:
        await between.cut()


@asynccontextmanager
async def memory_broker() -> AsyncIterator[MemoryBrokerServer]:
    """Yield an in-memory broker."""
    yield MemoryBrokerServer()


@asynccontextmanager
async def real_broker() -> AsyncIterator[RealBrokerServer]:
    """Yield the server at `RABBITMQ_URL`; afterwards its namespace is deleted."""
    if reason := problem("RABBITMQ_URL"):
        raise ConnectionError(reason)
    server = RealBrokerServer()
    try:
        yield server
    finally:
        await server.close()


@contextmanager
def private_node(folder: Path) -> Iterator[PrivateBrokerServer]:
    """Yield a running node with its own name, ports and folders."""
    port, distribution, mapper = free_port(), free_port(), free_port()
    (folder / "plugins").write_text("[].")
    (folder / "node.conf").write_text(f"listeners.tcp.local = 127.0.0.1:{port}\n")
    (folder / "environment").write_text("ERL_EPMD_ADDRESS=127.0.0.1\n")
    environment = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "RABBITMQ_NODENAME": f"test-{port}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "environment"),
        "RABBITMQ_CONFIG_FILE": str(folder / "node.conf"),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "ERL_EPMD_PORT": str(mapper),
    }
    node = PrivateBrokerServer(
        url=f"amqp://guest:guest@127.0.0.1:{port}/",
        folder=folder,
        port=port,
        environment=environment,
    )
    # The node's name server is one of ours, or the node would leave its own behind.
    mapping = subprocess.Popen(
        [
            shutil.which("epmd") or "/usr/bin/epmd",
            "-port",
            str(mapper),
            "-address",
            "127.0.0.1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        node.start()
        yield node
    finally:
        node.kill()
        mapping.kill()
        mapping.wait()
