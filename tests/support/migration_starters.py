"""What a process does that starts on a database, for tests of two that start at once.

It imports little, and so do the processes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from typing import TYPE_CHECKING

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from snippets.database import migrations_naive as naive
from snippets.database.migrations import run_migrations
from tests.support.migration_trees import METADATA

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    Role = Callable[[str, Path, Barrier, Path], None]


def migrate(url: str, scripts: Path, barrier: Barrier, told: Path) -> None:
    """Be a process that migrates as it starts."""

    async def start() -> bool:
        engine = create_async_engine(url)
        barrier.wait(120)
        return await run_migrations(engine, scripts)

    told.write_text(str(asyncio.run(start())), encoding="utf-8")


def create_all(url: str, _: Path, barrier: Barrier, told: Path) -> None:
    """Be a process that creates its tables as it starts, once both have looked."""

    def meet(_: Connection, __: object, statement: str, *___: object) -> None:
        if "CREATE TABLE" in statement:
            barrier.wait(120)

    async def start() -> str:
        engine = create_async_engine(url)
        event.listen(engine.sync_engine, "before_cursor_execute", meet)
        try:
            await naive.start(engine, METADATA)
        except DBAPIError:
            return "failed"
        return "started"

    told.write_text(asyncio.run(start()), encoding="utf-8")


async def two(role: Role, url: str, scripts: Path) -> list[str]:
    """Return what two processes told that played the same role at once."""
    server = multiprocessing.get_context("forkserver")  # which imports once for all
    server.set_forkserver_preload(["__main__", __name__])
    barrier = server.Barrier(2)
    told = [scripts.parent / "one", scripts.parent / "two"]
    processes = [
        server.Process(target=role, args=(url, scripts, barrier, file)) for file in told
    ]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 180)
    return sorted(file.read_text("utf-8") for file in told)
