"""A Redis Cluster of three nodes on loopback, without replicas."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotYetError

from tests.support.redis_servers import free_port

SLOTS = 16384
NODES = 3
START_SECONDS = 60
POLL_SECONDS = 0.02


@contextmanager
def redis_cluster(folder: Path) -> Iterator[list[int]]:
    """Yield the ports of three nodes that have shared all slots among them."""
    with ExitStack() as stack:
        ports = [stack.enter_context(_node(folder)) for _ in range(NODES)]
        clients = [stack.enter_context(Redis(port=port[0])) for port in ports]
        for number, client in enumerate(clients):
            first, end = number * SLOTS // NODES, (number + 1) * SLOTS // NODES
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            for port, bus in ports:
                client.execute_command("CLUSTER MEET", "127.0.0.1", port, bus)
        _wait_until(_is_complete, clients)
        yield [port for port, _ in ports]


@contextmanager
def _node(folder: Path) -> Iterator[tuple[int, int]]:
    """Start a node; yield its port and that of its bus."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        port, bus = free_port(), free_port()
        process = _start(folder, port, bus)
        try:
            if _answers(process, port, end):
                yield port, bus
                return
        finally:
            process.kill()
            process.wait()
        # It ended by itself, as when something else has taken a port meanwhile.
    raise ConnectionError(f"no node after {START_SECONDS} s")


def _start(folder: Path, port: int, bus: int) -> subprocess.Popen[bytes]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise FileNotFoundError("redis-server is not installed; install Redis 7")
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "save": "",
        "appendonly": "no",
        "cluster-enabled": "yes",
        "cluster-port": bus,
        "cluster-config-file": f"nodes-{port}.conf",
    }
    arguments = [
        part for name, value in options.items() for part in (f"--{name}", value)
    ]
    return subprocess.Popen(
        [binary, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _answers(process: subprocess.Popen[bytes], port: int, end: float) -> bool:
    """Wait until a node answers; return false if it has ended instead."""
    with Redis(port=port) as client:
        while process.poll() is None and time.monotonic() < end:
            with suppress(NotYetError):
                return bool(client.ping())
            time.sleep(POLL_SECONDS)
    return False


def _is_complete(client: Redis) -> bool:
    info = client.cluster("INFO")
    known, state = info["cluster_known_nodes"], info["cluster_state"]
    return (known, state) == (str(NODES), "ok")


def _wait_until(is_ready: Callable[[Redis], bool], clients: list[Redis]) -> None:
    end = time.monotonic() + START_SECONDS
    while not all(map(is_ready, clients)):
        if time.monotonic() > end:
            raise ConnectionError(f"no cluster after {START_SECONDS} s")
        time.sleep(POLL_SECONDS)
