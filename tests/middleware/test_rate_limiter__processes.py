"""Two processes share one limit, exactly.

Run as a module, this file is one of the processes.
"""

import asyncio
import sys

import pytest
from redis.asyncio import Redis

from catalogue.patterns import ROOT
from catalogue.plugin import Proof
from snippets.caching.redis_client import create_redis
from snippets.middleware.rate_limiter import RateLimiter
from tests.support.redis_servers import RealRedisServer

PATIENCE = 60
"""Seconds after which something hangs."""

CALLS = 200
LIMIT = 100

pytestmark = pytest.mark.backends("redis")


async def call(url: str, name: str) -> None:
    """Say that this process is ready; when told to, call at once; print who passed."""
    async with create_redis(url, timeout=PATIENCE) as redis:
        limiter = RateLimiter(
            name=name,
            limit=LIMIT,
            window=3600,
            client=lambda: redis,
            on_outage="closed",
        )
        await redis.rpush(f"{name}:ready", 1)
        await redis.blpop([f"{name}:go"])
        verdicts = await asyncio.gather(*(limiter.check("acme") for _ in range(CALLS)))
        assert all(verdict.is_counted for verdict in verdicts)
        sys.stdout.write(
            " ".join(str(one.remaining) for one in verdicts if one.allowed)
        )


async def test_of_400_calls_of_two_processes_at_once_exactly_100_pass(
    redis: Redis, redis_server: RealRedisServer, proof: Proof
) -> None:
    name = redis_server.namespace
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, redis_server.url, name),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for _ in processes:
            assert await redis.blpop([f"{name}:ready"], PATIENCE)
        await redis.rpush(f"{name}:go", 1, 1)
        async with asyncio.timeout(PATIENCE):
            ends = await asyncio.gather(*(one.communicate() for one in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()

    passed = [[int(left) for left in output.split()] for output, _ in ends]
    assert all(passed), "one process had it all, so they did not meet"
    assert sorted(passed[0] + passed[1]) == list(range(LIMIT))
    proof.cost(
        "400 calls at once from two processes, at a limit of 100", admitted=LIMIT
    )


if __name__ == "__main__":
    asyncio.run(call(sys.argv[1], sys.argv[2]))
