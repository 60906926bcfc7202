"""One starter migrates; failures, newer databases and two heads leave no trace."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.database.migrations import (
    MigrationError,
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
