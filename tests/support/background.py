"""What runs on after it should have ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PATIENCE_SECONDS = 10


@asynccontextmanager
async def nothing_left_running() -> AsyncIterator[None]:
    """Require that each task begun inside the block ends.

    A client library closes its connection in tasks of its own, which may take a few
    more turns of the loop.
    """
    before = asyncio.all_tasks()
    yield
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while left := asyncio.all_tasks() - before:
                await asyncio.wait(left)
    left = asyncio.all_tasks() - before
    assert not left, left
