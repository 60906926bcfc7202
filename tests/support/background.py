"""What runs on after it should have ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE_SECONDS = 10


@asynccontextmanager
async def nothing_left_running() -> AsyncIterator[None]:
    """Raise `TimeoutError`, naming the tasks, unless each begun inside the block ends.

    A client library closes its connection in tasks of its own, which may take a few
    more turns of the loop.
    """
    before = asyncio.all_tasks()
    yield
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while left := asyncio.all_tasks() - before:
                await asyncio.wait(left)
    except TimeoutError:
        raise TimeoutError(f"still running: {asyncio.all_tasks() - before}") from None
