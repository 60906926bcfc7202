"""One starter migrates; failures, newer databases and two heads leave no trace."""

import asyncio
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from snippets.database.migrations import (
    MigrationError,
    MigrationLockError,
    check_migrations,
    downgrade,
    run_migrations,
)
from tests.support.counters import count_sql
from tests.support.migration_trees import add_revision, write_tree


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A script folder with two revisions."""
    return write_tree(tmp_path / "100% migrations")


async def tables(engine: AsyncEngine) -> set[str]:
    """Return the names of all tables."""
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda c: inspect(c).get_table_names()))


async def test_up_down_and_up_again_leaves_no_drift(
    engine: AsyncEngine, scripts: Path
) -> None:
    assert await run_migrations(engine, scripts)
    await check_migrations(engine, scripts)
    await downgrade(engine, scripts, "base")
    assert await tables(engine) == {"alembic_version"}
    assert await run_migrations(engine, scripts)
    await check_migrations(engine, scripts)


async def test_a_second_start_sends_no_ddl(engine: AsyncEngine, scripts: Path) -> None:
    await run_migrations(engine, scripts)
    with count_sql(engine) as seen:
        assert not await run_migrations(engine, scripts)
    assert not [sql for sql in seen.texts if "CREATE" in sql or "ALTER" in sql]


async def test_of_two_starters_one_migrates_and_the_other_finds_nothing_to_do(
    engine: AsyncEngine, scripts: Path
) -> None:
    both = await asyncio.gather(*(run_migrations(engine, scripts) for _ in range(2)))
    assert sorted(both) == [False, True]


async def test_a_failure_in_the_middle_leaves_nothing(
    engine: AsyncEngine, scripts: Path
) -> None:
    broken = '    op.create_table("calls", sa.Column("id", sa.Integer))\n    1 / 0'
    add_revision(scripts, "third", "second", broken)
    with pytest.raises(ZeroDivisionError):
        await run_migrations(engine, scripts)
    assert await tables(engine) == set()


async def test_two_heads_are_refused(engine: AsyncEngine, scripts: Path) -> None:
    add_revision(scripts, "other", "first", "    pass")
    with pytest.raises(MigrationError, match=r"merge these: \['other', 'second'\]"):
        await run_migrations(engine, scripts)


async def test_a_database_newer_than_the_code_is_refused(
    engine: AsyncEngine, scripts: Path
) -> None:
    await run_migrations(engine, scripts)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num='x'"))
    with pytest.raises(MigrationError, match="newer than the code"):
        await run_migrations(engine, scripts)


async def test_a_starter_gives_up_when_the_lock_is_held_too_long(
    engine: AsyncEngine, scripts: Path, database_backend: str
) -> None:
    lock = {
        "sqlite": "BEGIN IMMEDIATE",
        "postgresql": "SELECT pg_advisory_xact_lock(27410184366549357)",
    }[database_backend]
    async with engine.connect() as holder:
        await holder.exec_driver_sql(lock)
        with pytest.raises(MigrationLockError, match="another starter held on"):
            await run_migrations(engine, scripts, lock_wait=0.0)
    assert await run_migrations(engine, scripts)


def _start(url: str, scripts: Path, barrier: Barrier, done: Path) -> None:
    """Be one of two processes that start together."""

    async def start() -> bool:
        engine = create_async_engine(url)
        barrier.wait(30)
        migrated = await run_migrations(engine, scripts)
        await engine.dispose()
        return migrated

    done.write_text(str(asyncio.run(start())), encoding="utf-8")


async def test_of_two_processes_one_migrates_and_the_other_finds_nothing_to_do(
    engine: AsyncEngine, database_url: str, scripts: Path, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    files = [tmp_path / "one", tmp_path / "two"]
    processes = [
        spawn.Process(target=_start, args=(database_url, scripts, barrier, file))
        for file in files
    ]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 60)
    assert sorted(file.read_text("utf-8") for file in files) == ["False", "True"]
    await check_migrations(engine, scripts)
