"""What a test asks of a connection pool, and a server whose clients may hang up."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn
from sqlalchemy import text
from sqlalchemy.pool import AsyncAdaptedQueuePool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine
    from starlette.types import ASGIApp


def checked_out(engine: AsyncEngine) -> int:
    """Return how many connections are out of the pool."""
    pool = engine.pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    return pool.checkedout()


async def assert_pool_is_whole(engine: AsyncEngine, connections: int) -> None:
    """Assert that all `connections` are in the pool, and that each of them works."""
    assert checked_out(engine) == 0
    async with AsyncExitStack() as stack:
        for _ in range(connections):
            connection = await stack.enter_async_context(engine.connect())
            assert await connection.scalar(text("SELECT 1")) == 1
        assert checked_out(engine) == connections
    assert checked_out(engine) == 0


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[int]:
    """Serve `app`, which is running already, on a loopback socket; yield its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        # The socket listens already, so a client that comes early waits for the server.
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
