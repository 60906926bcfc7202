"""A pool is bounded, fits its server, heals, and says how long was waited and held."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypedDict

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select, text
from sqlalchemy.dialects import registry as dialects
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.exc import TimeoutError as CheckoutTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool, StaticPool

from catalogue.plugin import Proof
from snippets.database import pool_naive as naive
from snippets.database.async_session import SessionDep, session_scope
from snippets.database.pool import PoolSettings, instrument_pool
from snippets.database.pool_wiring import create_app
from tests.support.databases import create_tables
from tests.support.pools import assert_pool_is_whole, checked_out

SMALL = PoolSettings(size=1, overflow=1, checkout_timeout=0.01)
PATIENT = PoolSettings(size=1, overflow=1, checkout_timeout=60)


class Settings(TypedDict, total=False):
    """What is varied of `PoolSettings`."""

    size: int
    overflow: int
    workers: int
    reserve: int
    checkout_timeout: float
    connect_timeout: float
    statement_timeout: float


class UnheardOfDialect(SQLiteDialect_aiosqlite):
    """A driver that the pattern knows nothing of."""

    driver = "unheardof"
    supports_statement_cache = True


class Base(DeclarativeBase):
    """The tables of these tests."""


class Call(Base):
    """A call that was placed."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]


@asynccontextmanager
async def engine_on(
    url: str, settings: PoolSettings = PATIENT
) -> AsyncIterator[AsyncEngine]:
    """Yield an engine with the pool of `settings`."""
    engine = create_async_engine(url, **settings.engine_options(url))
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def running(
    url: str, settings: PoolSettings, registry: CollectorRegistry
) -> AsyncIterator[tuple[FastAPI, AsyncEngine, httpx.AsyncClient]]:
    """Yield the wired application with one slow endpoint, its engine and a client."""
    app = create_app(url, settings, registry)
    async with app.router.lifespan_context(app), client_of(app) as client:
        engine = app.state.sessions.kw["bind"]
        await create_tables(engine, Base.metadata)
        yield app, engine, client


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that sees responses as a remote one does."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def times(number: int, happening: asyncio.Semaphore) -> None:
    """Wait until something has happened `number` times; fail if it never does."""
    async with asyncio.timeout(120):
        for _ in range(number):
            await happening.acquire()


class Clock:
    """A clock that a test moves, and that tells it when it was read."""

    def __init__(self) -> None:
        """Start at zero."""
        self.now = 0.0
        self.read = asyncio.Event()

    def __call__(self) -> float:
        """Return the time in seconds."""
        self.read.set()
        return self.now


def add_endpoints(
    app: FastAPI,
    holding: asyncio.Semaphore,
    go: asyncio.Event,
    asking: asyncio.Semaphore | None = None,
) -> None:
    """Add an endpoint that holds its connection until `go`, and one that does not."""

    @app.post("/calls/held")
    async def place_held(session: SessionDep) -> None:
        if asking:
            asking.release()
        await session.execute(select(Call))
        holding.release()
        await go.wait()

    @app.post("/calls")
    async def place(session: SessionDep) -> None:
        session.add(Call(number="1001"))
        await session.flush()


async def test_a_request_that_finds_the_pool_exhausted_is_told_to_come_back(
    database_url: str,
) -> None:
    registry = CollectorRegistry()
    async with running(database_url, SMALL, registry) as (app, engine, client):
        holding, go = asyncio.Semaphore(0), asyncio.Event()
        add_endpoints(app, holding, go)
        held = [asyncio.create_task(client.post("/calls/held")) for _ in range(2)]
        await times(2, holding)
        assert registry.get_sample_value("db_pool_connections_in_use") == 2
        assert registry.get_sample_value("db_pool_timeouts_total") == 0

        refused = await client.post("/calls")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json() == {"status": 503, "title": "The service is busy"}
        assert registry.get_sample_value("db_pool_timeouts_total") == 1

        go.set()
        assert [(await task).status_code for task in held] == [200, 200]
        async with session_scope(app.state.sessions) as session:
            assert await session.scalar(select(func.count(Call.id))) == 0
        assert (await client.post("/calls")).status_code == 200
        await assert_pool_is_whole(engine, 2)


@pytest.mark.parametrize(("size", "overflow"), [(1, 0), (2, 0), (1, 2)])
async def test_a_checkout_beyond_size_and_overflow_times_out(
    database_url: str, size: int, overflow: int
) -> None:
    settings = PoolSettings(size=size, overflow=overflow, checkout_timeout=0.01)
    async with engine_on(database_url, settings) as engine, AsyncExitStack() as stack:
        for _ in range(size + overflow):
            await stack.enter_async_context(engine.connect())
        with pytest.raises(CheckoutTimeout, match=r"timeout 0\.01"):
            await engine.connect()
        assert checked_out(engine) == size + overflow


async def test_waiting_and_holding_are_measured_apart(database_url: str) -> None:
    registry, clock = CollectorRegistry(), Clock()
    settings = PoolSettings(size=1, overflow=0, checkout_timeout=60)
    async with engine_on(database_url, settings) as engine:
        instrument_pool(engine, registry, clock)

        async def wait_and_hold() -> None:
            async with engine.connect():
                clock.now += 10

        async with engine.connect():
            clock.now += 3
            clock.read.clear()
            waiting = asyncio.create_task(wait_and_hold())
            await clock.read.wait()
            clock.now += 4
        await waiting
    assert registry.get_sample_value("db_pool_wait_seconds_count") == 2
    assert registry.get_sample_value("db_pool_wait_seconds_sum") == 4
    assert registry.get_sample_value("db_pool_hold_seconds_count") == 2
    assert registry.get_sample_value("db_pool_hold_seconds_sum") == (3 + 4) + 10


async def test_a_wait_that_is_given_up_is_measured_too(database_url: str) -> None:
    registry = CollectorRegistry()
    settings = PoolSettings(size=1, overflow=0, checkout_timeout=0.01)
    async with engine_on(database_url, settings) as engine:
        instrument_pool(engine, registry)
        async with engine.connect():
            with pytest.raises(CheckoutTimeout):
                await engine.connect()
    assert registry.get_sample_value("db_pool_wait_seconds_count") == 2
    assert registry.get_sample_value("db_pool_hold_seconds_count") == 1
    assert registry.get_sample_value("db_pool_timeouts_total") == 1


async def test_a_pool_is_measured_on_after_its_engine_was_disposed_of(
    database_url: str,
) -> None:
    registry = CollectorRegistry()
    async with engine_on(database_url) as engine:
        instrument_pool(engine, registry)
        await engine.dispose()
        async with engine.connect():
            assert registry.get_sample_value("db_pool_connections_in_use") == 1
        assert registry.get_sample_value("db_pool_wait_seconds_count") == 1
        assert registry.get_sample_value("db_pool_hold_seconds_count") == 1


async def test_a_pool_of_another_class_is_not_measured(database_url: str) -> None:
    engine = create_async_engine(database_url)
    with pytest.raises(TypeError, match="AsyncAdaptedQueuePool cannot be measured"):
        instrument_pool(engine, CollectorRegistry())
    await engine.dispose()


async def test_a_thousand_cancelled_requests_leave_the_pool_whole(
    database_url: str,
) -> None:
    registry = CollectorRegistry()
    settings = PoolSettings(
        size=3, overflow=2, checkout_timeout=600, connect_timeout=60
    )
    async with running(database_url, settings, registry) as (app, engine, client):
        asking, holding = asyncio.Semaphore(0), asyncio.Semaphore(0)
        add_endpoints(app, holding, asyncio.Event(), asking)
        tasks = [asyncio.create_task(client.post("/calls/held")) for _ in range(1000)]
        await times(1000, asking)
        await times(5, holding)
        assert registry.get_sample_value("db_pool_connections_in_use") == 5
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
        assert registry.get_sample_value("db_pool_connections_in_use") == 0
        await assert_pool_is_whole(engine, 5)


async def test_a_pool_without_a_queue_is_given_no_size(
    database_url: str, database_backend: str
) -> None:
    urls = {"sqlite": "sqlite+aiosqlite://", "postgresql": database_url}
    poolclass = {"sqlite": None, "postgresql": NullPool}[database_backend]
    url = urls[database_backend]
    options = PoolSettings().engine_options(url, poolclass)
    engine = create_async_engine(url, **options)
    assert (
        type(engine.pool)
        is {"sqlite": StaticPool, "postgresql": NullPool}[database_backend]
    )
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()
    with pytest.raises(TypeError, match="'pool_size'"):
        create_async_engine(url, **options, pool_size=5)


def test_the_timeouts_of_an_unknown_driver_are_not_guessed() -> None:
    dialects.register("sqlite.unheardof", __name__, "UnheardOfDialect")
    with pytest.raises(ValueError, match="timeouts of unheardof are not known"):
        PoolSettings().engine_options("sqlite+unheardof://")


def test_a_driver_that_would_block_the_event_loop_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="requires an async driver"):
        PoolSettings().engine_options("sqlite://")


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0},
        {"overflow": -1},
        {"workers": 0},
        {"reserve": -1},
        {"checkout_timeout": 0},
        {"checkout_timeout": -1},
        {"checkout_timeout": math.inf},
        {"connect_timeout": 0},
        {"connect_timeout": math.nan},
        {"statement_timeout": 0.0004},
        {"statement_timeout": 3e6},
    ],
    ids=str,
)
def test_a_setting_that_would_lift_a_limit_is_refused(settings: Settings) -> None:
    with pytest.raises(ValueError, match="too small, or a timeout"):
        PoolSettings(**settings)


async def test_the_longest_times_that_are_accepted_work(database_url: str) -> None:
    longest = 2_147_483
    settings = PoolSettings(
        reserve=0,
        checkout_timeout=longest,
        connect_timeout=longest,
        statement_timeout=longest,
    )
    async with engine_on(database_url, settings) as engine:
        await assert_pool_is_whole(engine, 10)


async def test_the_wait_for_a_lock_reaches_sqlite(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'calls.db'}"
    settings = PoolSettings(statement_timeout=1.234)
    async with engine_on(url, settings) as engine, engine.connect() as connection:
        assert await connection.scalar(text("PRAGMA busy_timeout")) == 1234


async def test_a_naive_pool_tells_the_client_of_an_internal_error(
    database_url: str, proof: Proof
) -> None:
    app = naive.create_app(database_url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    async with app.router.lifespan_context(app), client_of(app) as client:
        holding, go = asyncio.Semaphore(0), asyncio.Event()
        async with app.state.sessions.kw["bind"].begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        add_endpoints(app, holding, go)
        held = asyncio.create_task(client.post("/calls/held"))
        await times(1, holding)
        refused = await client.post("/calls")
        go.set()
        await held
    assert (refused.status_code, refused.text) == (500, "Internal Server Error")
    assert "Retry-After" not in refused.headers
    proof.breaks(
        "All connections are held when one more request comes",
        "it is told 500, as if the service were broken, and not when to come back",
    )
