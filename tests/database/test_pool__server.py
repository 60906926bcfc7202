"""What a pool does about its server: deaths, limits, time-outs, forks and pings."""

import asyncio
import multiprocessing
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection as Pipe

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from catalogue.plugin import Proof
from snippets.database import pool_naive as naive
from snippets.database.async_session import SessionDep
from snippets.database.pool import (
    CapacityError,
    ForkedPoolError,
    PoolSettings,
    instrument_pool,
)
from snippets.database.pool_wiring import create_app
from tests.support.counters import count_sql
from tests.support.pools import assert_pool_is_whole, checked_out

postgresql = pytest.mark.backends("postgresql")

ONE = PoolSettings(size=1, overflow=0, checkout_timeout=5)


@asynccontextmanager
async def engine_on(
    url: str, settings: PoolSettings = ONE
) -> AsyncIterator[AsyncEngine]:
    """Yield an engine with the pool of `settings`."""
    engine = create_async_engine(url, **settings.engine_options(url))
    try:
        yield engine
    finally:
        await engine.dispose()


async def server_process(connection: AsyncConnection) -> int:
    """Return the number of the process that serves `connection`."""
    process: int = (await connection.scalars(select(func.pg_backend_pid()))).one()
    return process


async def kill(*processes: int, url: str) -> None:
    """Kill server processes, as an administrator or a restart does."""
    killer = create_async_engine(url, poolclass=NullPool)
    async with killer.connect() as connection:
        for process in processes:
            killed = select(func.pg_terminate_backend(process, 60_000))
            assert await connection.scalar(killed)


@postgresql
async def test_a_connection_killed_in_the_pool_is_replaced_unseen(
    database_url: str,
) -> None:
    async with engine_on(database_url) as engine:
        async with engine.connect() as connection:
            killed = await server_process(connection)
        await kill(killed, url=database_url)
        async with engine.connect() as connection:
            assert await server_process(connection) != killed
        await assert_pool_is_whole(engine, 1)


@postgresql
async def test_all_connections_killed_at_once_are_replaced_unseen(
    database_url: str,
) -> None:
    async with engine_on(database_url, PoolSettings(size=2, overflow=0)) as engine:
        async with engine.connect() as first, engine.connect() as second:
            killed = await server_process(first), await server_process(second)
        await kill(*killed, url=database_url)
        await assert_pool_is_whole(engine, 2)


@postgresql
async def test_a_naive_pool_hands_out_a_connection_that_was_killed(
    database_url: str, proof: Proof
) -> None:
    app = naive.create_app(database_url)

    @app.get("/server")
    async def server(session: SessionDep) -> int:
        return await server_process(await session.connection())

    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        process = (await client.get("/server")).json()
        await kill(process, url=database_url)
        response = await client.get("/server")
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    proof.breaks(
        "The server restarts and drops the connections in the pool",
        "the next request is told 500, though the server is up again",
    )


@postgresql
async def test_a_cancellation_during_the_ping_returns_the_connection(
    database_url: str,
) -> None:
    registry = CollectorRegistry()
    async with engine_on(database_url) as engine:
        instrument_pool(engine, registry)
        pinging = asyncio.Event()
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            assert raw.driver_connection is not None
            raw.driver_connection.add_query_logger(lambda _: pinging.set())
        pinging.clear()

        task = asyncio.create_task(engine.connect().start())
        await pinging.wait()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert checked_out(engine) == 0
        assert registry.get_sample_value("db_pool_wait_seconds_count") == 2
        assert registry.get_sample_value("db_pool_hold_seconds_count") == 1
        await assert_pool_is_whole(engine, 1)


@postgresql
async def test_workers_that_fit_the_server_start(database_url: str) -> None:
    async with engine_on(database_url) as engine:
        async with engine.connect() as connection:
            shown = (await connection.scalars(text("SHOW max_connections"))).one()
        limit = int(shown)
        fits = PoolSettings(size=3, overflow=4, workers=2, reserve=limit - 2 * (3 + 4))
        await fits.check_capacity(engine)
        too_large = PoolSettings(
            size=3, overflow=4, workers=2, reserve=limit - 2 * (3 + 4) + 1
        )
        with pytest.raises(CapacityError) as refusal:
            await too_large.check_capacity(engine)
        granted = f"{limit} less {too_large.reserve}"
        assert str(refusal.value) == f"14 wanted, {granted} granted"
        assert checked_out(engine) == 0


@postgresql
async def test_an_application_too_large_for_its_server_does_not_start(
    database_url: str,
) -> None:
    app = create_app(database_url, PoolSettings(workers=100_000), CollectorRegistry())
    with pytest.raises(CapacityError):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")
    assert checked_out(app.state.sessions.kw["bind"]) == 0


async def test_a_file_has_room_for_everybody(database_url: str, proof: Proof) -> None:
    settings = PoolSettings(workers=100_000)
    async with engine_on(database_url) as engine:
        with count_sql(engine) as sql:
            try:
                await settings.check_capacity(engine)
                outcome = "starts; a file has no limit"
            except CapacityError:
                outcome = "is refused"
        expected = {
            "sqlite": ("starts; a file has no limit", 0),
            "postgresql": ("is refused", 1),
        }
        assert (outcome, sql.total) == expected[engine.dialect.name]
    proof.differs("A service with far too many workers", outcome)


@postgresql
async def test_the_statement_timeout_reaches_the_server(database_url: str) -> None:
    settings = PoolSettings(statement_timeout=60.123)
    async with engine_on(database_url, settings) as engine:
        async with engine.connect() as connection:
            shown = await connection.scalar(text("SHOW statement_timeout"))
            assert shown == "60123ms"
            await connection.execute(text("SET LOCAL statement_timeout = 100"))
            with pytest.raises(DBAPIError, match="statement timeout"):
                await connection.execute(select(func.pg_sleep(60)))
        assert checked_out(engine) == 0


@pytest.mark.usefixtures("database_url")
@postgresql
async def test_the_connect_timeout_reaches_the_driver() -> None:
    # Nobody accepts, so that the client is connected but never answered.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+asyncpg://ada@127.0.0.1:{silent.getsockname()[1]}/calls"
        async with (
            engine_on(url, PoolSettings(connect_timeout=0.1)) as engine,
            asyncio.timeout(30) as limit_of_this_test,
        ):
            with pytest.raises(TimeoutError):
                await engine.connect()
            assert checked_out(engine) == 0
        assert not limit_of_this_test.expired()


def use_in_a_forked_process(engine: AsyncEngine, answers: Pipe) -> None:
    """Use an inherited pool, then one of this process; send what happened."""

    async def use() -> int:
        async with engine.connect() as connection:
            process = await server_process(connection)
        await engine.dispose()
        return process

    try:
        answers.send(asyncio.run(use()))
    except ForkedPoolError as error:
        answers.send(str(error))
        engine.sync_engine.dispose(close=False)
        answers.send(asyncio.run(use()))


@postgresql
async def test_a_pool_is_not_shared_across_a_fork(database_url: str) -> None:
    fork = multiprocessing.get_context("fork")
    received, sent = fork.Pipe(duplex=False)
    # If the child did share the socket, the parent would wait for stolen replies.
    async with asyncio.timeout(60), engine_on(database_url) as engine:
        async with engine.connect() as connection:
            ours = await server_process(connection)
        child = fork.Process(
            target=use_in_a_forked_process, args=(engine, sent), daemon=True
        )
        child.start()
        try:
            child.join(timeout=30)
            assert child.exitcode == 0
        finally:
            child.kill()
            child.join()
        assert received.recv() == f"this pool belongs to process {os.getpid()}"
        assert received.recv() != ours
        async with engine.connect() as connection:
            assert await server_process(connection) == ours
    received.close()
    sent.close()
    child.close()


async def test_a_checkout_costs_one_ping_and_no_statement(
    database_url: str, proof: Proof
) -> None:
    sent: list[str] = []
    async with engine_on(database_url) as engine:
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            if engine.dialect.name == "sqlite":
                await raw.set_trace_callback(sent.append)
            else:
                raw.add_query_logger(lambda logged: sent.append(logged.query))
        sent.clear()
        with count_sql(engine) as sql:
            async with engine.connect():
                pass
        assert sql.total == 0
    expected = {
        "sqlite": (["SELECT 1"], "SELECT 1, in the same process"),
        "postgresql": (
            ["BEGIN;", ";", "ROLLBACK;"],
            "an empty query between BEGIN and ROLLBACK: three round trips",
        ),
    }
    queries, behaviour = expected[engine.dialect.name]
    assert sent == queries
    proof.cost("checkout of a used connection", statements=0, pings=1)
    proof.differs("The ping at a checkout", f"is {behaviour}")
