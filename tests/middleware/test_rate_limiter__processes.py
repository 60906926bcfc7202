"""Two processes share one limit, exactly.

Run as a module, this file is one of the processes.
"""

import asyncio
import sys

import pytest

from catalogue.patterns import ROOT
from catalogue.plugin import Proof
from snippets.caching.redis_client import create_redis
from snippets.middleware.rate_limiter import RateLimiter
from tests.support.redis_servers import RealRedisServer

PATIENCE = 60
"""Seconds after which something hangs."""

CALLS = 200
LIMIT = 100
FIRST = 30
"""Calls of each process that pass before they compete for the rest."""

pytestmark = pytest.mark.backends("redis")


async def call(url: str, name: str) -> None:
    """Call at once, when told to, some times and then the others; print who passed."""
    async with create_redis(url, timeout=PATIENCE) as redis:
        limiter = RateLimiter(
            name=name,
            limit=LIMIT,
            window=3600,
            client=lambda: redis,
            on_outage="closed",
        )
        verdicts = []
        for calls in (FIRST, CALLS - FIRST):
            await redis.rpush(f"{name}:ready", 1)
            await redis.blpop([f"{name}:go"])
            checks = (limiter.check("acme") for _ in range(calls))
            verdicts += await asyncio.gather(*checks)
        assert all(verdict.is_counted for verdict in verdicts)
        sys.stdout.write(
            " ".join(str(one.remaining) for one in verdicts if one.allowed)
        )


async def test_of_400_calls_of_two_processes_at_once_exactly_100_pass(
    redis_server: RealRedisServer, proof: Proof
) -> None:
    name, redis = redis_server.namespace, redis_server.client(socket_timeout=PATIENCE)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, redis_server.url, name),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for _ in range(2):
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
    assert min(map(len, passed)) >= FIRST
    assert sorted(passed[0] + passed[1]) == list(range(LIMIT))
    proof.cost(
        "400 calls at once from two processes, at a limit of 100", admitted=LIMIT
    )


if __name__ == "__main__":
    asyncio.run(call(sys.argv[1], sys.argv[2]))
