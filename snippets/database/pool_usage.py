"""Bound a pool to one connection, hold it, and see what the next caller is told."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import create_async_engine

from snippets.database.pool import PoolSettings, instrument_pool


async def main() -> None:
    """Exhaust a pool on a file, and look at its metrics."""
    settings = PoolSettings(size=1, overflow=0, checkout_timeout=0.01)
    registry = CollectorRegistry()
    with TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'calls.db'}"
        engine = create_async_engine(url, **settings.engine_options(url))
        instrument_pool(engine, registry)
        async with engine.connect():
            print(registry.get_sample_value("db_pool_connections_in_use"))
            # > 1.0
            try:
                await engine.connect()
            except exc.TimeoutError as error:
                print(str(error).partition(",")[0])
                # > QueuePool limit of size 1 overflow 0 reached
        print(registry.get_sample_value("db_pool_connections_in_use"))
        # > 0.0
        print(registry.get_sample_value("db_pool_timeouts_total"))
        # > 1.0
        print(registry.get_sample_value("db_pool_hold_seconds_count"))
        # > 1.0
        print(registry.get_sample_value("db_pool_wait_seconds_count"))
        # > 2.0
        await engine.dispose()

    print(sorted(settings.engine_options("sqlite+aiosqlite://")))
    # > ['connect_args', 'pool_pre_ping', 'poolclass']


if __name__ == "__main__":
    asyncio.run(main())
