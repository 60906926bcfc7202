"""Two processes with a lease run the function once, and survive each other's death.

Run as a module, this file is one of the processes.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from catalogue.patterns import ROOT
from catalogue.plugin import Proof
from snippets.caching.cached import Cache, cached
from snippets.caching.redis_client import create_redis
from tests.support.redis_servers import RealRedisServer

PATIENCE = 60
"""Seconds after which something hangs."""

pytestmark = pytest.mark.backends("redis")


async def ask(url: str, namespace: str, lease: float) -> None:
    """Ask for a user, in a process of its own, and print who it is."""
    async with create_redis(url, timeout=PATIENCE) as redis:

        @cached(Cache(lambda: redis, namespace), ttl=300, vary=None, lease=lease)
        async def name(user_id: int) -> str:
            await redis.rpush(f"{namespace}:running", os.getpid())
            await redis.blpop([f"{namespace}:go"])
            return f"Ada {user_id}"

        await redis.rpush(f"{namespace}:asking", os.getpid())
        sys.stdout.write(await name(7))


class Processes:
    """The processes of a test, and what they say through Redis."""

    def __init__(self, server: RealRedisServer, redis: Redis) -> None:
        """Start none yet."""
        self.server = server
        self.redis = redis
        self.started: dict[int, asyncio.subprocess.Process] = {}

    async def start(self, lease: float) -> None:
        """Start a process, and return when it is about to ask."""
        arguments = self.server.url, self.server.namespace, str(lease)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, *arguments),
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(len(self.started))},
            stdout=asyncio.subprocess.PIPE,
        )
        self.started[process.pid] = process
        assert await self.next("asking") == process.pid

    async def next(self, what: str) -> int:
        """Return the id of the next process that is asking, or running."""
        found = await self.redis.blpop([f"{self.server.namespace}:{what}"], PATIENCE)
        assert found is not None, f"no process is {what}"
        return int(found[1])

    async def let_one_go_on(self) -> None:
        """Let the function end in one process; another would hang."""
        await self.redis.rpush(f"{self.server.namespace}:go", 1)

    async def kill(self, pid: int) -> None:
        """Kill a process as the kernel would."""
        process = self.started.pop(pid)
        process.send_signal(signal.SIGKILL)
        await process.communicate()

    async def outputs(self) -> list[bytes]:
        """Wait for the end of all, and return what they printed."""
        ends = (process.communicate() for process in self.started.values())
        async with asyncio.timeout(PATIENCE):
            return [output for output, _ in await asyncio.gather(*ends)]


@pytest.fixture
async def processes(
    redis_server: RealRedisServer, redis: Redis
) -> AsyncIterator[Processes]:
    """No process yet; none is left afterwards."""
    processes = Processes(redis_server, redis)
    yield processes
    for process in processes.started.values():
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_two_processes_run_the_function_once(
    processes: Processes, proof: Proof
) -> None:
    await processes.start(lease=PATIENCE)
    await processes.next("running")
    await processes.start(lease=PATIENCE)

    await processes.let_one_go_on()

    assert await processes.outputs() == [b"Ada 7", b"Ada 7"]
    assert await processes.redis.llen(f"{processes.server.namespace}:running") == 0
    proof.cost("misses in two processes, with a lease", executions=1)


async def test_when_the_running_process_is_killed_exactly_one_other_takes_over(
    processes: Processes,
) -> None:
    await processes.start(lease=1)
    leader = await processes.next("running")
    await processes.start(lease=PATIENCE)
    await processes.start(lease=PATIENCE)

    await processes.kill(leader)
    successor = await processes.next("running")
    await processes.let_one_go_on()

    assert successor in processes.started
    assert await processes.outputs() == [b"Ada 7", b"Ada 7"]
    assert await processes.redis.llen(f"{processes.server.namespace}:running") == 0


if __name__ == "__main__":
    asyncio.run(ask(sys.argv[1], sys.argv[2], float(sys.argv[3])))
