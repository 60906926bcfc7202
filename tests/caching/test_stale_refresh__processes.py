"""Two processes refresh a value once, and survive each other's death.

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
from snippets.caching.redis_client import create_redis
from tests.support.redis_servers import RealRedisServer
from tests.support.stale_refresh import ADA, DUE, Load, Service, User

PATIENCE = 60.0
"""Seconds after which something hangs."""
LEASE = 45.0
READERS = 100

pytestmark = pytest.mark.backends("redis")


async def serve(url: str, namespace: str, now: float) -> None:
    """Let readers ask for a user at a given time, in a process of its own."""
    async with create_redis(url, timeout=PATIENCE) as redis:

        async def load() -> User | None:
            await redis.rpush(f"{namespace}:running", os.getpid())
            await redis.blpop([f"{namespace}:go"])
            return User(name=f"loaded at {now}")

        users = Service(now).users(redis, lease=LEASE)
        await redis.rpush(f"{namespace}:ready", os.getpid())
        await redis.blpop([f"{namespace}:start"])
        async with users:
            asked = (users.get(f"{namespace}:user:7", load) for _ in range(READERS))
            found = await asyncio.gather(*asked)
            assert found == [ADA] * READERS
            await redis.rpush(f"{namespace}:served", os.getpid())


class Processes:
    """The processes of a test, and what they say through Redis."""

    def __init__(self, server: RealRedisServer, redis: Redis) -> None:
        """Start none yet."""
        self.server = server
        self.redis = redis
        self.started: dict[int, asyncio.subprocess.Process] = {}

    async def start(self, now: float) -> int:
        """Start a process whose clock stands, and return when it is ready."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__),
            *(self.server.url, self.server.namespace, str(now)),
            cwd=ROOT,
        )
        self.started[process.pid] = process
        assert await self.next("ready") == process.pid
        return process.pid

    async def next(self, what: str) -> int:
        """Return the id of the next process that is ready, running, or has served."""
        found = await self.redis.blpop([f"{self.server.namespace}:{what}"], PATIENCE)
        assert found is not None, f"no process is {what}"
        return int(found[1])

    async def let(self, what: str, times: int = 1) -> None:
        """Let processes start, or their loads go on."""
        await self.redis.rpush(f"{self.server.namespace}:{what}", *range(times))

    async def waiting(self, what: str) -> int:
        """Return how many said so and were not heard yet."""
        return await self.redis.llen(f"{self.server.namespace}:{what}")

    async def kill(self, pid: int) -> None:
        """Kill a process as the kernel would."""
        process = self.started.pop(pid)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def end(self) -> None:
        """Wait for the end of all, and require that it was a good one."""
        async with asyncio.timeout(PATIENCE):
            for process in self.started.values():
                assert await process.wait() == 0


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
            await process.wait()


@pytest.fixture
async def key(redis_server: RealRedisServer, redis: Redis) -> str:
    """The key of a user who is kept."""
    key = f"{redis_server.namespace}:user:7"
    await Service(0).users(redis).get(key, Load.of(ADA))
    return key


async def test_200_readers_in_two_processes_cause_one_execution(
    processes: Processes, redis: Redis, key: str, proof: Proof
) -> None:
    for _ in range(2):
        await processes.start(DUE)
    await processes.let("start", times=2)
    for _ in range(2):
        await processes.next("served")  # none waited for the refresh

    refreshing = await processes.next("running")
    await processes.let("go")
    await processes.end()

    assert refreshing in processes.started
    assert await processes.waiting("running") == 0
    found = await Service(DUE).users(redis).get(key, Load.of(None))
    assert found == User(name=f"loaded at {DUE}")
    proof.cost("refresh window with 200 readers in two processes", loads=1)


async def test_when_the_refreshing_process_is_killed_another_takes_over_after_the_lease(
    processes: Processes, redis: Redis, key: str
) -> None:
    await processes.start(DUE)
    await processes.let("start")
    await processes.kill(await processes.next("running"))

    early = await processes.start(DUE + LEASE - 1)
    await processes.let("start")
    await processes.end()
    del processes.started[early]
    assert await processes.waiting("running") == 0

    successor = await processes.start(DUE + LEASE)
    await processes.let("start")
    assert await processes.next("running") == successor
    await processes.let("go")
    await processes.end()

    found = await Service(DUE + LEASE).users(redis).get(key, Load.of(None))
    assert found == User(name=f"loaded at {DUE + LEASE}")


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], float(sys.argv[3])))
