"""A fresh database for one test, on SQLite or on PostgreSQL."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import event, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import DropSchema

from tests.support.servers import address, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import MetaData
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
OWN_SCHEMAS = """
SELECT nspname FROM pg_namespace
WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
"""


@asynccontextmanager
async def sqlite_database(folder: Path) -> AsyncIterator[str]:
    """Yield the URL of a new database file in `folder`, with patience for its lock."""
    yield f"sqlite+aiosqlite:///{folder / 'test.db'}?timeout=60"


@asynccontextmanager
async def postgresql_database() -> AsyncIterator[str]:
    """Yield the URL of a new database at `DATABASE_URL`; drop it afterwards."""
    if reason := problem("DATABASE_URL"):
        raise ConnectionError(reason)
    server = make_url(address("DATABASE_URL"))
    name = f"service_patterns_{uuid.uuid4().hex}"
    await _on_server(f'CREATE DATABASE "{name}"')
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        await _on_server(f'DROP DATABASE "{name}" WITH (FORCE)')


async def empty_postgresql(url: str) -> None:
    """Leave a database as it was when new: end its sessions, drop all that it holds.

    Takes milliseconds, where a new database takes a tenth of a second or more.
    """
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text(END_SESSIONS))
        schemas = await connection.scalars(text(OWN_SCHEMAS))
        for schema in schemas.all():
            await connection.execute(DropSchema(schema, cascade=True))
        await connection.execute(text("CREATE SCHEMA public"))


async def postgresql_version() -> str:
    """Return the version of the server at `DATABASE_URL`, such as `15.19`."""
    version = await _on_server("SHOW server_version")
    return str(version).partition(" ")[0]


def create_engine(url: str, **options: object) -> AsyncEngine:
    """Return an engine on `url` that enforces foreign keys on SQLite too."""
    engine = create_async_engine(url, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _enforce_foreign_keys)
    return engine


_TEMPLATES: dict[tuple[object, ...], bytes] = {}


async def create_tables(engine: AsyncEngine, *metadata: MetaData) -> None:
    """Create all tables; in a new SQLite file by copying one, but for the first time.

    To create them costs ten milliseconds, as much as the rest of a usual test.
    """
    file = _new_file(engine)
    tables = *metadata, *(name for each in metadata for name in each.tables)
    if file and tables in _TEMPLATES:
        file.write_bytes(_TEMPLATES[tables])
        return
    async with engine.begin() as connection:
        for each in metadata:
            await connection.run_sync(each.create_all)
    if file:
        _TEMPLATES[tables] = file.read_bytes()


def _new_file(engine: AsyncEngine) -> Path | None:
    """Return the SQLite file that an engine would begin, if there is none yet."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    file = Path(engine.url.database)
    return None if file.exists() else file


def _enforce_foreign_keys(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


async def _on_server(statement: str) -> object:
    """Run one statement outside of a transaction; return its first value, if any."""
    engine = create_async_engine(
        address("DATABASE_URL"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    async with engine.connect() as connection:
        result = await connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None
