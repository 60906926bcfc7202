"""Bound what a service takes of its database, and measure how long it waits and holds.

A pool never holds more than `size + overflow` connections; whoever waits longer than
`checkout_timeout` gets SQLAlchemy's `TimeoutError`. A connection that died in the pool
is replaced at its next checkout, unseen by the caller; one that dies in a transaction
takes it along. A pool works in the process that first used it and in no other.

Source: https://docs.sqlalchemy.org/en/21/core/pooling.html
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sqlalchemy import URL, event, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool, PoolProxiedConnection


class CapacityError(RuntimeError):
    """The workers together could ask for more connections than the server grants."""


class ForkedPoolError(RuntimeError):
    """A pool was used on both sides of a fork, which would share its sockets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many connections there may be, and how many seconds anything may take.

    `workers` counts the processes of all replicas; `reserve` is left to all others. On
    SQLite, which has no server, the statement timeout is the wait for a lock.
    """

    size: int = 5
    overflow: int = 5
    workers: int = 1
    reserve: int = 10
    checkout_timeout: float = 5.0
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0

    def __post_init__(self) -> None:
        """Refuse values that a pool or a server takes for no limit at all."""
        times = self.checkout_timeout, self.connect_timeout, self.statement_timeout
        counts = self.size, self.workers, self.overflow + 1, self.reserve + 1
        if min(counts) < 1 or not all(1 <= 1000 * each < 2**31 for each in times):
            raise ValueError("a count is too small, or a timeout not 1 ms to 24 days")

    def engine_options(
        self, url: str | URL, poolclass: type[Pool] | None = None
    ) -> dict[str, object]:
        """Return what `create_async_engine` can use of these settings for this URL.

        A pool without a queue, as in-memory SQLite has it and `poolclass` may ask for,
        is given no size. Raises `ValueError` for a driver whose timeouts are not known.
        """
        example = create_async_engine(url)  # connects to nothing
        poolclass = poolclass or type(example.pool)
        options: dict[str, object] = {"pool_pre_ping": True, "poolclass": poolclass}
        if issubclass(poolclass, AsyncAdaptedQueuePool):
            options |= {"pool_size": self.size, "max_overflow": self.overflow}
            options |= {"pool_timeout": self.checkout_timeout, "poolclass": OwnedPool}
        if example.dialect.driver == "asyncpg":
            limits = {"statement_timeout": str(round(self.statement_timeout * 1000))}
            connect_args = {"timeout": self.connect_timeout, "server_settings": limits}
        elif example.dialect.driver == "aiosqlite":
            connect_args = {"timeout": self.statement_timeout}
        else:
            raise ValueError(f"the timeouts of {example.dialect.driver} are not known")
        return options | {"connect_args": connect_args}

    async def check_capacity(self, engine: AsyncEngine) -> None:
        """Raise `CapacityError` if PostgreSQL has no room for all workers at once."""
        if engine.dialect.name != "postgresql":
            return
        async with engine.connect() as connection:
            limit = int((await connection.scalars(text("SHOW max_connections"))).one())
        wanted = self.workers * (self.size + self.overflow)
        if wanted > limit - self.reserve:
            raise CapacityError(f"{wanted} wanted, {limit} less {self.reserve} granted")


class OwnedPool(AsyncAdaptedQueuePool):
    """A pool that works in one process and lets its checkouts be measured."""

    measure: Callable[[], AbstractContextManager[None]] = nullcontext
    _process: int | None = None

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out; raise `ForkedPoolError` in a forked process.

        There, `engine.sync_engine.dispose(close=False)` makes a pool of its own.
        """
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise ForkedPoolError(f"this pool belongs to process {self._process}")
        with self.measure():
            return super().connect()


def instrument_pool(
    engine: AsyncEngine,
    registry: CollectorRegistry,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Measure every wait for a connection and every hold of one, in seconds.

    A wait counts however it ends. Raises `TypeError` for any pool but an `OwnedPool`.
    """
    wait = Histogram("db_pool_wait_seconds", "Waits for one", registry=registry)
    hold = Histogram("db_pool_hold_seconds", "Holds of one", registry=registry)
    timeouts = Counter("db_pool_timeouts", "Waits given up", registry=registry)
    in_use = Gauge("db_pool_connections_in_use", "Held now", registry=registry)
    since: WeakKeyDictionary[object, float] = WeakKeyDictionary()

    @contextmanager
    def measure() -> Iterator[None]:
        started = clock()
        try:
            yield
        except exc.TimeoutError:
            timeouts.inc()
            raise
        finally:
            wait.observe(clock() - started)

    def attach(_: object = None) -> None:
        pool = engine.pool
        if not isinstance(pool, OwnedPool):
            raise TypeError(f"{type(pool).__name__} cannot be measured")
        pool.measure = measure
        in_use.set_function(pool.checkedout)

    def checked_out(_: object, record: object, __: object) -> None:
        since[record] = clock()

    def checked_in(_: object, record: object) -> None:
        if (started := since.pop(record, None)) is not None:
            hold.observe(clock() - started)

    attach()
    event.listen(engine.sync_engine, "engine_disposed", attach)
    event.listen(engine.sync_engine, "checkout", checked_out)
    event.listen(engine.sync_engine, "checkin", checked_in)
