"""A unit of work commits or rolls back by itself, and always returns its connection."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_type

import pytest
from sqlalchemy import ForeignKey, Row, event, func, insert, select
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    OperationalError,
    StatementError,
)
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, selectinload
from sqlalchemy.orm import relationship as lazy_relationship
from sqlalchemy.pool import NullPool

from snippets.database.async_session import (
    SharedSessionError,
    create_engine_and_sessions,
    relationship,
    session_scope,
)
from tests.support.counters import count_sql
from tests.support.databases import create_tables
from tests.support.pools import assert_pool_is_whole, checked_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from catalogue.plugin import Proof

    Sessions = async_sessionmaker[AsyncSession]


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    extensions: Mapped[list[Extension]] = relationship(viewonly=True)
    lazy_extensions: Mapped[list[Extension]] = lazy_relationship(viewonly=True)


class Extension(Base):
    """A number that rings at a user's desk."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """The pattern's engine and sessions, on a database with the tables above."""
    engine, sessions = create_engine_and_sessions(
        database_url, pool_size=2, max_overflow=1, pool_timeout=5
    )
    await create_tables(engine, Base.metadata)
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """Its engine."""
    return engine_and_sessions[0]


@pytest.fixture
def sessions(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> Sessions:
    """Its sessions."""
    return engine_and_sessions[1]


async def emails(sessions: Sessions) -> list[str]:
    """Return the addresses that are committed."""
    async with session_scope(sessions) as session:
        return list(await session.scalars(select(User.email).order_by(User.email)))


async def test_a_unit_of_work_is_committed_by_one_begin_and_one_commit(
    engine: AsyncEngine, sessions: Sessions, proof: Proof
) -> None:
    with count_sql(engine) as sql:
        async with session_scope(sessions) as session:
            session.add(User(email="ada@example.com"))
            await session.flush()
            assert checked_out(engine) == 1
            assert await session.get(Extension, "1001") is None
        assert checked_out(engine) == 0
    assert (sql.begins, sql.commits, sql.rollbacks, sql.total) == (1, 1, 0, 2)
    assert await emails(sessions) == ["ada@example.com"]
    proof.cost("one write and one read in a scope", begins=1, commits=1, statements=2)


async def test_a_scope_in_which_nothing_was_asked_takes_no_connection(
    engine: AsyncEngine, sessions: Sessions, proof: Proof
) -> None:
    checkouts: list[object] = []
    event.listen(engine.sync_engine, "checkout", lambda *_: checkouts.append(None))
    with count_sql(engine) as sql:
        async with session_scope(sessions):
            pass
    assert (sql.begins, sql.commits, sql.total, len(checkouts)) == (0, 0, 0, 0)
    proof.cost("a scope without work", begins=0, commits=0, statements=0, checkouts=0)


async def test_an_exception_rolls_back_and_returns_the_connection(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async def work() -> None:
        async with session_scope(sessions) as session:
            session.add(User(email="ada@example.com"))
            await session.flush()
            raise LookupError("no such tenant")

    with pytest.raises(LookupError, match="no such tenant"):
        await work()
    assert checked_out(engine) == 0
    assert await emails(sessions) == []


async def test_a_cancelled_unit_of_work_rolls_back_and_returns_the_connection(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    flushed = asyncio.Event()

    async def work() -> None:
        async with session_scope(sessions) as session:
            session.add(User(email="ada@example.com"))
            await session.flush()
            flushed.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await flushed.wait()
    assert checked_out(engine) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert checked_out(engine) == 0
    assert await emails(sessions) == []
    await assert_pool_is_whole(engine, 3)


async def test_a_second_cancellation_during_the_rollback_returns_the_connection_too(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    flushed, rolling_back = asyncio.Event(), asyncio.Event()
    event.listen(engine.sync_engine, "rollback", lambda _: rolling_back.set())

    async def work() -> None:
        async with session_scope(sessions) as session:
            session.add(User(email="ada@example.com"))
            await session.flush()
            flushed.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await flushed.wait()
    task.cancel()
    await rolling_back.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert checked_out(engine) == 0
    assert await emails(sessions) == []
    await assert_pool_is_whole(engine, 3)


async def test_a_statement_that_is_cancelled_leaves_no_lock_behind(
    engine: AsyncEngine, database_url: str, sessions: Sessions
) -> None:
    async def work() -> None:
        async with session_scope(sessions) as session:
            session.add_all([User(email="ada@example.com"), User(email="bob@x.com")])
            await session.flush()

    def cancel(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT"):
            task.cancel()

    event.listen(engine.sync_engine, "before_cursor_execute", cancel)
    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert checked_out(engine) == 0
    other, impatient = create_engine_and_sessions(
        database_url, connect_args={"timeout": 0 if "sqlite" in database_url else 60}
    )
    async with session_scope(impatient) as session:
        session.add(User(email="ada@example.com"))
    await other.dispose()
    assert await emails(sessions) == ["ada@example.com"]


async def test_a_cancelled_commit_leaves_all_or_nothing_and_returns_the_connection(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    committing = asyncio.Event()

    async def work() -> None:
        async with session_scope(sessions) as session:
            session.add_all([User(email="ada@example.com"), User(email="bob@x.com")])
            await session.flush()
            event.listen(engine.sync_engine, "commit", lambda _: committing.set())

    task = asyncio.create_task(work())
    await committing.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert checked_out(engine) == 0
    assert await emails(sessions) in ([], ["ada@example.com", "bob@x.com"])
    await assert_pool_is_whole(engine, 3)


async def test_a_session_is_unusable_once_its_scope_is_left(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with session_scope(sessions) as session:
        assert await session.scalar(select(func.count(User.id))) == 0
    with pytest.raises(InvalidRequestError, match="permanently closed"):
        await session.scalar(select(func.count(User.id)))
    assert checked_out(engine) == 0


async def test_an_instance_is_readable_after_the_commit_without_a_statement(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with session_scope(sessions) as session:
        ada = User(email="ada@example.com")
        session.add(ada)
    with count_sql(engine) as sql:
        assert ada.email == "ada@example.com"
        assert ada.id == 1
    assert sql.total == 0


async def test_a_relationship_raises_unless_the_query_loads_it(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with session_scope(sessions) as session:
        ada = User(email="ada@example.com")
        session.add(ada)
        await session.flush()
        session.add(Extension(number="1001", user_id=ada.id))
    async with session_scope(sessions) as session:
        lazy = await session.get_one(User, ada.id)
        with (
            count_sql(engine) as sql,
            pytest.raises(InvalidRequestError, match="lazy='raise'"),
        ):
            assert lazy.extensions
        assert sql.total == 0
    async with session_scope(sessions) as session:
        options = [selectinload(User.extensions)]
        eager = await session.get_one(User, ada.id, options=options)
    assert [extension.number for extension in eager.extensions] == ["1001"]


async def test_a_relationship_that_loads_by_itself_fails_unlike_on_each_database(
    sessions: Sessions, database_backend: str, proof: Proof
) -> None:
    async with session_scope(sessions) as session:
        session.add(User(email="ada@example.com"))
    async with session_scope(sessions) as session:
        ada = (await session.scalars(select(User))).one()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises((StatementError, InvalidRequestError)) as failure:
                assert ada.lazy_extensions
            name = failure.type.__name__
            del failure
            gc.collect()
    warned = ["never awaited" in str(warning.message) for warning in caught]
    expected = {
        "sqlite": ("StatementError", [True]),
        "postgresql": ("MissingGreenlet", []),
    }
    assert (name, warned) == expected[database_backend]
    also = " and a warning that a coroutine was never awaited" if warned else ""
    proof.differs("A lazy load outside of an await", f"raises {name}{also}")


async def test_a_failed_inner_create_leaves_the_outer_transaction_usable(
    sessions: Sessions,
) -> None:
    async def create(session: AsyncSession, email: str) -> None:
        async with session.begin_nested():
            session.add(User(email=email))

    async with session_scope(sessions) as session:
        session.add(User(email="ada@example.com"))
        await session.flush()
        with pytest.raises(IntegrityError):
            await create(session, "ada@example.com")
        await create(session, "bob@example.com")
    assert await emails(sessions) == ["ada@example.com", "bob@example.com"]


async def test_a_rollback_undoes_a_transaction_that_began_with_a_savepoint(
    database_url: str, sessions: Sessions, proof: Proof
) -> None:
    async def work(sessions: Sessions) -> None:
        async with session_scope(sessions) as session:
            async with session.begin_nested():
                session.add(User(email="ada@example.com"))
            raise LookupError

    with pytest.raises(LookupError):
        await work(sessions)
    assert await emails(sessions) == []

    plain = create_async_engine(database_url, poolclass=NullPool)
    with pytest.raises(LookupError):
        await work(async_sessionmaker(plain))
    left = await emails(sessions)
    keeps = {"sqlite": ["ada@example.com"], "postgresql": []}
    assert left == keeps[plain.dialect.name]
    outcome = "keeps what the savepoint wrote" if left else "keeps nothing"
    proof.differs(
        "A rolled back transaction that began with a savepoint, on a plain engine",
        outcome,
    )


async def test_foreign_keys_are_enforced_on_sqlite_too(
    database_url: str, sessions: Sessions, proof: Proof
) -> None:
    async def orphan(sessions: Sessions) -> str:
        try:
            async with session_scope(sessions) as session:
                session.add(Extension(number="1001", user_id=404))
        except IntegrityError:
            return "is refused"
        return "is stored"

    assert await orphan(sessions) == "is refused"
    plain = create_async_engine(database_url, poolclass=NullPool)
    outcome = await orphan(async_sessionmaker(plain))
    expected = {"sqlite": "is stored", "postgresql": "is refused"}
    assert outcome == expected[plain.dialect.name]
    proof.differs("A row whose foreign key leads nowhere, on a plain engine", outcome)


async def test_in_memory_sqlite_has_one_connection_for_all_sessions(
    database_url: str, database_backend: str, proof: Proof
) -> None:
    url = "sqlite+aiosqlite://" if database_backend == "sqlite" else database_url
    engine, sessions = create_engine_and_sessions(url)
    await create_tables(engine, Base.metadata)
    outcome = "has a transaction of its own"
    async with session_scope(sessions) as first, sessions() as second:
        first.add(User(email="ada@example.com"))
        await first.flush()
        try:
            assert await second.scalar(select(func.count(User.id))) == 0
        except OperationalError as error:
            outcome = str(error.orig)
    await engine.dispose()
    expected = {
        "sqlite": "cannot start a transaction within a transaction",
        "postgresql": "has a transaction of its own",
    }
    assert outcome == expected[database_backend]
    proof.differs("A second session during the first (SQLite in memory)", outcome)


async def enter(session: AsyncSession) -> None:
    """Use a session as the context manager that it also is."""
    async with session:
        pass


async def roll_back_by_transaction(session: AsyncSession) -> None:
    """Roll back without asking the session itself to."""
    transaction = session.get_transaction()
    assert transaction is not None
    await transaction.rollback()


EVE = insert(User).values(email="eve@example.com")
OPERATIONS: dict[str, Callable[[AsyncSession], Awaitable[object]]] = {
    "execute": lambda session: session.execute(EVE),
    "get": lambda session: session.get(User, 1),
    "flush": AsyncSession.flush,
    "commit": AsyncSession.commit,
    "rollback": AsyncSession.rollback,
    "rollback of the transaction": roll_back_by_transaction,
    "savepoint": lambda session: session.begin_nested().start(),
    "connection": AsyncSession.connection,
    "close": AsyncSession.close,
    "close, sync": lambda session: session.run_sync(lambda sync: sync.close()),
    "reset": AsyncSession.reset,
    "invalidate": AsyncSession.invalidate,
    "block": enter,
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_session_is_refused_to_a_second_task(
    engine: AsyncEngine, sessions: Sessions, operation: str
) -> None:
    async def use(session: AsyncSession) -> None:
        await OPERATIONS[operation](session)

    async with session_scope(sessions) as session:
        session.add(User(email="ada@example.com"))
        if operation != "flush":
            await session.flush()
        results = await asyncio.gather(
            use(session), use(session), return_exceptions=True
        )
        assert [type(result) for result in results] == [SharedSessionError] * 2
        session.add(User(email="bob@example.com"))
    assert await emails(sessions) == ["ada@example.com", "bob@example.com"]
    await assert_pool_is_whole(engine, 3)


async def test_what_a_second_task_only_adds_is_written_by_the_owner(
    sessions: Sessions,
) -> None:
    async def add(session: AsyncSession) -> None:
        session.add(User(email="eve@example.com"))

    async with session_scope(sessions) as session:
        await asyncio.create_task(add(session))
    assert await emails(sessions) == ["eve@example.com"]


async def test_a_block_that_the_factory_begins_commits_what_was_only_added(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        session.add(User(email="ada@example.com"))
    assert checked_out(engine) == 0
    with pytest.raises(SharedSessionError):  # it commits in a task of its own
        async with sessions.begin() as session:
            await session.execute(EVE)
    assert checked_out(engine) == 0
    assert await emails(sessions) == ["ada@example.com"]


async def test_a_session_of_another_class_on_the_same_one_can_be_left(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with async_sessionmaker(**sessions.kw)() as session:
        await session.execute(EVE)
        await session.commit()
        await session.execute(select(User))
    assert checked_out(engine) == 0
    assert await emails(sessions) == ["eve@example.com"]


async def test_the_owner_may_roll_back_and_close(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions() as session:
        session.add(User(email="ada@example.com"))
        await session.flush()
        await session.rollback()
        session.add(User(email="bob@example.com"))
        await session.commit()
        await session.close()
        assert checked_out(engine) == 0
    assert await emails(sessions) == ["bob@example.com"]


async def test_a_session_passes_to_another_task_once_its_own_has_ended(
    sessions: Sessions,
) -> None:
    scope = session_scope(sessions)

    async def open_scope() -> AsyncSession:
        return await scope.__aenter__()

    session = await asyncio.create_task(open_scope())
    session.add(User(email="ada@example.com"))
    await session.flush()
    await scope.__aexit__(None, None, None)
    assert await emails(sessions) == ["ada@example.com"]


async def test_each_task_works_in_a_scope_of_its_own_at_the_same_time(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    both_have_read = asyncio.Barrier(2)

    async def read_at_once() -> int:
        async with session_scope(sessions) as session:
            assert await session.scalar(select(func.count(User.id))) == 0
            await both_have_read.wait()
            return checked_out(engine)

    held = await asyncio.gather(read_at_once(), read_at_once())
    assert set(held) == {2}
    assert checked_out(engine) == 0


async def test_two_transactions_that_read_and_then_write_end_differently(
    database_url: str, sessions: Sessions, proof: Proof
) -> None:
    engine, impatient = create_engine_and_sessions(
        database_url, connect_args={"timeout": 0 if "sqlite" in database_url else 60}
    )
    outcome = "both commit"
    async with session_scope(impatient) as first:
        assert await first.scalar(select(func.count(User.id))) == 0
        try:
            async with session_scope(impatient) as second:
                assert await second.scalar(select(func.count(User.id))) == 0
                first.add(User(email="ada@example.com"))
                await first.flush()
                second.add(User(email="bob@example.com"))
        except OperationalError as error:
            outcome = f"the second fails: {error.orig}"
    await engine.dispose()
    expected = {
        "sqlite": ("the second fails: database is locked", ["ada@example.com"]),
        "postgresql": ("both commit", ["ada@example.com", "bob@example.com"]),
    }
    assert (outcome, await emails(sessions)) == expected[engine.dialect.name]
    proof.differs("Two transactions that both read and then write", outcome)


async def test_the_type_of_a_row_is_that_of_its_model(sessions: Sessions) -> None:
    async with session_scope(sessions) as session:
        assert_type(session, AsyncSession)
        assert_type(await session.get(User, 1), User | None)
        pairs = await session.execute(select(User.id, User.email))
        assert_type(pairs.all(), Sequence[Row[int, str]])
        rows = (await session.scalars(select(User))).all()
        assert_type(rows, Sequence[User])
        assert rows == []


@pytest.mark.parametrize("options", [{}, {"hide_parameters": False}])
async def test_no_parameter_is_quoted_in_an_error_or_the_log_unless_it_is_asked_for(
    database_url: str, options: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine, sessions = create_engine_and_sessions(database_url, echo=True, **options)
    nowhere = select(User).where(User.email == "hunter2")
    with pytest.raises(DBAPIError) as refused:
        async with session_scope(sessions) as session:
            await session.scalars(nowhere)  # there is no such table yet
    await engine.dispose()

    assert ("hunter2" in str(refused.value)) is bool(options)
    assert ("hunter2" in caplog.text) is bool(options)
    assert "SELECT users.id" in caplog.text


def test_a_factory_connects_to_nothing() -> None:
    engine, _ = create_engine_and_sessions("postgresql+asyncpg://ada@127.0.0.1:1/none")
    assert checked_out(engine) == 0


def test_importing_the_pattern_makes_no_engine() -> None:
    program = (
        "import gc, sqlalchemy, snippets.database.async_session_wiring\n"
        "found = [o for o in gc.get_objects() if isinstance(o, sqlalchemy.Engine)]\n"
        "raise SystemExit(len(found))"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=False).returncode == 0
