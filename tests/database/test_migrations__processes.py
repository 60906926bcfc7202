"""Processes that start together, one that is killed, and the `alembic` command."""

import asyncio
import os
import sys
import traceback
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from alembic.config import main as config_main
from sqlalchemy import URL, inspect, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from catalogue.plugin import Proof
from snippets.database.migrations import (
    MigrationError,
    check_migrations,
    run_migrations,
)
from tests.support.migration_starters import create_all, migrate, two
from tests.support.migration_trees import add_revision, write_tree

Command: TypeAlias = Callable[..., Awaitable[None]]
HANG = """
    op.create_table("calls", sa.Column("id", sa.Integer))
    import sys
    print("in the middle", flush=True)
    sys.stdin.read()"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A script folder with two revisions."""
    return write_tree(tmp_path / "migrations")


async def process(scripts: Path, url: str, *arguments: str) -> Process:
    """Start a process of the `alembic` command on the folder and on a database."""
    config = ["-c", str(scripts / "alembic.ini"), *arguments]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", *config),
        env=os.environ | {"MIGRATED_URL": url},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )


@pytest.fixture
def alembic(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The `alembic` command on the folder, in this process, which costs no imports."""

    async def run(url: str | None, *arguments: str) -> None:
        if url is not None:
            monkeypatch.setenv("MIGRATED_URL", url)
        config = ["-c", str(scripts / "alembic.ini"), "-q", *arguments]
        await asyncio.to_thread(config_main, argv=config)

    return run


async def tables(engine: AsyncEngine) -> set[str]:
    """Return the names of all tables."""
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda c: inspect(c).get_table_names()))


async def test_of_two_processes_one_migrates_and_the_other_finds_nothing_to_do(
    engine: AsyncEngine, database_url: str, scripts: Path
) -> None:
    assert await two(migrate, database_url, scripts) == ["False", "True"]
    await check_migrations(engine, scripts)


async def test_naive_of_two_processes_that_create_the_tables_one_fails(
    database_url: str, scripts: Path, proof: Proof
) -> None:
    assert await two(create_all, database_url, scripts) == ["failed", "started"]
    proof.breaks(
        "Two processes look at an empty database, and then both create its tables",
        "the second one's start fails: the table is already there",
    )


async def test_a_starter_killed_in_the_middle_leaves_nothing_and_frees_the_lock(
    engine: AsyncEngine, database_url: str, scripts: Path
) -> None:
    add_revision(scripts, "third", "second", HANG)
    killed = await process(scripts, database_url, "upgrade", "head")
    assert killed.stdout
    assert await killed.stdout.readline() == b"in the middle\n"
    add_revision(scripts, "third", "second", "    pass")
    waiting = asyncio.create_task(run_migrations(engine, scripts))
    killed.kill()
    await killed.communicate()
    assert await waiting
    assert await tables(engine) == {"alembic_version", "users"}


async def test_the_command_goes_up_down_and_up_again_without_a_drift(
    engine: AsyncEngine, database_url: str, scripts: Path, alembic: Command
) -> None:
    for step, left in (
        (("upgrade", "head"), {"alembic_version", "users"}),
        (("downgrade", "base"), {"alembic_version"}),
        (("upgrade", "head"), {"alembic_version", "users"}),
    ):
        await alembic(database_url, *step)
        assert await tables(engine) == left
    await check_migrations(engine, scripts)
    assert not await run_migrations(engine, scripts)


async def test_a_revision_that_the_command_writes_is_a_batch_and_ends_the_drift(
    engine: AsyncEngine, database_url: str, scripts: Path, alembic: Command
) -> None:
    second = scripts / "versions" / "second.py"
    second.unlink()
    await run_migrations(engine, scripts)
    drift = ("revision", "--autogenerate", "-m", "drift", "--rev-id", "new")
    await alembic(database_url, *drift)
    written = (scripts / "versions" / "new_drift.py").read_text("utf-8")
    assert "with op.batch_alter_table('users'" in written
    assert await run_migrations(engine, scripts)
    await check_migrations(engine, scripts)


async def test_sql_that_the_command_writes_offline_changes_nothing(
    engine: AsyncEngine,
    database_url: str,
    scripts: Path,
    database_backend: str,
    proof: Proof,
) -> None:
    offline = await process(scripts, database_url, "upgrade", "head", "--sql")
    printed = b"".join(await offline.communicate())
    assert b"CREATE TABLE users" in printed
    assert (offline.returncode == 0) == (database_backend == "postgresql")
    assert await tables(engine) == set()
    told = {
        "sqlite": "ends in an error at the first batch, which must read the table",
        "postgresql": "holds all steps",
    }
    proof.differs("SQL written offline", told[database_backend])


async def test_the_command_without_a_url_says_so(alembic: Command) -> None:
    with pytest.raises(MigrationError, match="neither a connection nor a URL"):
        await alembic(None, "current")


async def test_a_percent_sign_in_the_name_of_a_file_is_left_alone(
    alembic: Command, tmp_path: Path
) -> None:
    file = tmp_path / "100%(here)s.db"
    await alembic(f"sqlite+aiosqlite:///{file}", "upgrade", "head")
    assert file.stat().st_size


def with_password(url: str, secret: str) -> URL:
    """Return a URL with another password, which a server that trusts does not read."""
    return make_url(url).set(password=secret)


@pytest.mark.backends("postgresql")
async def test_a_percent_sign_in_the_password_is_left_alone(
    database_url: str, scripts: Path, alembic: Command
) -> None:
    secret = with_password(database_url, "100%(here)s@%40")
    await alembic(secret.render_as_string(hide_password=False), "upgrade", "head")
    engine = create_async_engine(secret)
    assert not await run_migrations(engine, scripts)
    await engine.dispose()


@pytest.mark.backends("postgresql")
async def test_no_password_is_in_the_error_of_a_command_that_cannot_connect(
    database_url: str, alembic: Command
) -> None:
    secret = with_password(database_url, "hunter2").set(database="no_such")
    url = secret.render_as_string(hide_password=False)
    with pytest.raises(Exception, match='"no_such" does not exist') as error:
        await alembic(url, "upgrade", "head")
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
