"""Processes that start together, one that is killed, and the `alembic` command."""

import asyncio
import multiprocessing
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, event, inspect, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from catalogue.plugin import Proof
from snippets.database import migrations_naive as naive
from snippets.database.migrations import check_migrations, run_migrations
from tests.support.migration_trees import METADATA, add_revision, write_tree

HANG = """
    op.create_table("calls", sa.Column("id", sa.Integer))
    import sys
    print("in the middle", flush=True)
    sys.stdin.read()"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A script folder with two revisions."""
    return write_tree(tmp_path / "migrations")


async def alembic(scripts: Path, url: str | None, *arguments: str) -> Process:
    """Start the `alembic` command on the folder and on the database at `url`."""
    environment = os.environ | ({"MIGRATED_URL": url} if url else {})
    config = ["-c", str(scripts / "alembic.ini"), *arguments]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", *config),
        env=environment,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )


async def output(process: Process) -> str:
    """Return all that a command printed, once it has ended."""
    return "".join(part.decode() for part in await process.communicate())


async def tables(engine: AsyncEngine) -> set[str]:
    """Return the names of all tables."""
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda c: inspect(c).get_table_names()))


def migrate(url: str, scripts: Path, barrier: Barrier, told: Path) -> None:
    """Be a process that migrates as it starts."""

    async def start() -> bool:
        engine = create_async_engine(url)
        barrier.wait(30)
        return await run_migrations(engine, scripts)

    told.write_text(str(asyncio.run(start())), encoding="utf-8")


def create_all(url: str, _: Path, barrier: Barrier, told: Path) -> None:
    """Be a process that creates its tables as it starts, once both have looked."""

    def meet(_: Connection, __: object, statement: str, *___: object) -> None:
        if "CREATE TABLE" in statement:
            barrier.wait(30)

    async def start() -> str:
        engine = create_async_engine(url)
        event.listen(engine.sync_engine, "before_cursor_execute", meet)
        try:
            await naive.start(engine, METADATA)
        except DBAPIError:
            return "failed"
        return "started"

    told.write_text(asyncio.run(start()), encoding="utf-8")


async def two(
    role: Callable[[str, Path, Barrier, Path], None], url: str, scripts: Path
) -> list[str]:
    """Return what two processes told that played the same role at once."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    told = [scripts.parent / "one", scripts.parent / "two"]
    processes = [
        spawn.Process(target=role, args=(url, scripts, barrier, file)) for file in told
    ]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 60)
    return sorted(file.read_text("utf-8") for file in told)


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
    killed = await alembic(scripts, database_url, "upgrade", "head")
    assert killed.stdout
    assert await killed.stdout.readline() == b"in the middle\n"
    add_revision(scripts, "third", "second", "    pass")
    waiting = asyncio.create_task(run_migrations(engine, scripts))
    killed.kill()
    await killed.communicate()
    assert await waiting
    assert await tables(engine) == {"alembic_version", "users"}


async def test_the_command_goes_up_down_and_up_again_without_a_drift(
    engine: AsyncEngine, database_url: str, scripts: Path
) -> None:
    for step, left in (
        (("upgrade", "head"), {"alembic_version", "users"}),
        (("downgrade", "base"), {"alembic_version"}),
        (("upgrade", "head"), {"alembic_version", "users"}),
    ):
        process = await alembic(scripts, database_url, *step)
        assert (await output(process), process.returncode) == ("", 0)
        assert await tables(engine) == left
    await check_migrations(engine, scripts)
    assert not await run_migrations(engine, scripts)


async def test_a_revision_that_the_command_writes_is_a_batch_and_ends_the_drift(
    engine: AsyncEngine, database_url: str, scripts: Path
) -> None:
    second = scripts / "versions" / "second.py"
    second.unlink()
    await run_migrations(engine, scripts)
    drift = ("revision", "--autogenerate", "-m", "drift", "--rev-id", "new")
    process = await alembic(scripts, database_url, *drift)
    assert "done" in await output(process)
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
    process = await alembic(scripts, database_url, "upgrade", "head", "--sql")
    assert "CREATE TABLE users" in await output(process)
    assert (process.returncode == 0) == (database_backend == "postgresql")
    assert await tables(engine) == set()
    told = {
        "sqlite": "ends in an error at the first batch, which must read the table",
        "postgresql": "holds all steps",
    }
    proof.differs("SQL written offline", told[database_backend])


async def test_the_command_without_a_url_says_so(scripts: Path) -> None:
    process = await alembic(scripts, None, "current")
    assert "neither a connection nor a URL was given" in await output(process)
    assert process.returncode


async def test_a_percent_sign_in_the_name_of_a_file_is_left_alone(
    scripts: Path, tmp_path: Path
) -> None:
    file = tmp_path / "100%(here)s.db"
    process = await alembic(scripts, f"sqlite+aiosqlite:///{file}", "upgrade", "head")
    assert (await output(process), process.returncode) == ("", 0)
    assert file.stat().st_size


def with_password(url: str, secret: str) -> URL:
    """Return a URL with another password, which a server that trusts does not read."""
    return make_url(url).set(password=secret)


@pytest.mark.backends("postgresql")
async def test_a_percent_sign_in_the_password_is_left_alone(
    database_url: str, scripts: Path
) -> None:
    secret = with_password(database_url, "100%(here)s@%40")
    url = secret.render_as_string(hide_password=False)
    process = await alembic(scripts, url, "upgrade", "head")
    assert (await output(process), process.returncode) == ("", 0)
    engine = create_async_engine(secret)
    assert not await run_migrations(engine, scripts)
    await engine.dispose()


@pytest.mark.backends("postgresql")
async def test_no_password_is_in_the_error_of_a_command_that_cannot_connect(
    database_url: str, scripts: Path
) -> None:
    secret = with_password(database_url, "hunter2").set(database="no_such")
    url = secret.render_as_string(hide_password=False)
    process = await alembic(scripts, url, "upgrade", "head")
    printed = await output(process)
    assert 'database "no_such" does not exist' in printed
    assert "hunter2" not in printed
    assert process.returncode
