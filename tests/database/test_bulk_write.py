"""Many rows are written in few statements, in whole, in order, for one tenant."""

from __future__ import annotations

import asyncio
import uuid
from contextvars import ContextVar
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (
    DeclarativeBase,
    InstrumentedAttribute,
    Mapped,
    declared_attr,
    mapped_column,
)

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.bulk_write import bulk_insert, upsert
from snippets.database.bulk_write_naive import create_many, create_or_update_many
from snippets.database.filters import FieldError
from snippets.database.row_batches import RowConflictError
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
        Mapping,
    )

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

    from catalogue.plugin import Proof

    Sessions = async_sessionmaker[AsyncSession]
    Column = InstrumentedAttribute[Any]
    Rows = Iterable[Mapping[str, Any]]
    Write = Callable[..., Awaitable[object]]

ON = ["tenant_id", "email"]
tenant: ContextVar[int] = ContextVar("tenant")


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(Base):
    """Somebody with a telephone; a field is not named as its column."""

    __tablename__ = "users"
    __table_args__ = (
        sa.UniqueConstraint("tenant_id", "email_address", name="uq_users_email"),
        sa.UniqueConstraint("tenant_id", "desk", name="uq_users_desk"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    email: Mapped[str] = mapped_column("email_address")
    name: Mapped[str] = mapped_column(server_default="nobody")
    level: Mapped[int | None] = mapped_column(default=1)
    desk: Mapped[str | None]


class Extension(Base):
    """A number, whose tenant is known from the context."""

    __tablename__ = "extensions"

    tenant_id: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, default=tenant.get
    )
    number: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str | None]


class Call(Base):
    """A row with a key that Python makes."""

    __tablename__ = "calls"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    number: Mapped[str] = mapped_column(unique=True)
    written: Mapped[str] = mapped_column(default="first", onupdate="again")


class Folded(sa.types.TypeDecorator[str]):
    """Text of which the database is given the lower case."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Fold."""
        del dialect
        return value and value.lower()


class Login(Base):
    """A row whose key comes back in another form."""

    __tablename__ = "logins"

    name: Mapped[str] = mapped_column(Folded, primary_key=True)


class Membership(Base):
    """A row that is nothing but its key."""

    __tablename__ = "memberships"

    user_id: Mapped[int] = mapped_column(primary_key=True)
    group: Mapped[str] = mapped_column(primary_key=True)


class Line(Base):
    """A row of many columns."""

    __table__ = sa.Table(
        "lines",
        Base.metadata,
        sa.Column("id", sa.String, primary_key=True),
        *(sa.Column(f"feature_{number}", sa.Integer) for number in range(99)),
    )


class Voicemail(Base):
    """A message; its kinds share a table."""

    __tablename__ = "voicemails"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, str]:
        """Tell the kinds apart."""
        return {"polymorphic_on": "kind"}


class OnPostgreSQL(DeclarativeBase):
    """A table that SQLite does not understand."""


class Recording(OnPostgreSQL):
    """A row whose key the database makes without counting."""

    __tablename__ = "recordings"

    id: Mapped[uuid.UUID] = mapped_column(
        primary_key=True, server_default=sa.func.gen_random_uuid()
    )
    number: Mapped[str]


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """An engine and the factory of its sessions, on a database with the tables."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """The engine."""
    return engine_and_sessions[0]


@pytest.fixture
def sessions(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> Sessions:
    """The factory."""
    return engine_and_sessions[1]


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A session of which nothing is committed unless the test does."""
    async with sessions() as session:
        yield session


def users(count: int, **more: object) -> list[dict[str, Any]]:
    """Return rows whose order is not that of their addresses."""
    return [
        {"tenant_id": 7, "email": f"{-number}@example.com", **more}
        for number in range(count)
    ]


async def stored(session: AsyncSession, *columns: Column) -> list[tuple[Any, ...]]:
    """Return columns of all users, in order of their keys."""
    query = sa.select(*columns).order_by(User.id)
    return [tuple(row) for row in await session.execute(query)]


@pytest.mark.parametrize(("rows", "batch"), [(1000, 1000), (1000, 300), (1, 1000)])
async def test_an_insert_costs_a_statement_per_batch(
    session: AsyncSession, engine: AsyncEngine, proof: Proof, rows: int, batch: int
) -> None:
    await session.connection()
    with count_sql(engine) as statements:
        await bulk_insert(session, User, users(rows), batch_size=batch)

    assert statements.total == ceil(rows / batch)
    assert await session.scalar(sa.select(sa.func.count(User.id))) == rows
    proof.cost(
        f"bulk_insert, {rows} rows in batches of {batch}", statements=statements.total
    )


async def test_an_upsert_costs_a_statement_per_batch(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    await bulk_insert(session, User, users(500))
    with count_sql(engine) as statements:
        await upsert(session, User, users(2001, name="Ada"), on=ON)
    with count_sql(engine) as returning:
        await upsert(session, User, users(2001), on=ON, returning=["id"])

    assert (statements.total, returning.total) == (3, 3)
    assert await stored(session, User.name) == [("Ada",)] * 2001
    proof.cost("upsert, 2001 rows of which 500 are there", statements=statements.total)


async def test_no_rows_cost_nothing(session: AsyncSession, engine: AsyncEngine) -> None:
    with count_sql(engine) as statements:
        assert await bulk_insert(session, User, [], returning=["id"]) == []
        assert await upsert(session, User, iter(()), on=ON, returning=["id"]) == []

    assert (statements.total, statements.begins) == (0, 0)


async def test_wide_rows_go_in_batches_below_the_limit_of_parameters(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    rows = [
        {"id": f"{number}"} | {f"feature_{n}": number for n in range(99)}
        for number in range(1000)
    ]
    most = engine.dialect.insertmanyvalues_max_parameters
    with count_sql(engine) as statements:
        ids = await bulk_insert(session, Line, rows, returning=["id"])
        again = await upsert(session, Line, rows, on=["id"], returning=["feature_0"])

    assert most < 1000 * 100
    assert statements.total == 2 * ceil(1000 / (most // 100))
    assert ids == [(row["id"],) for row in rows]
    assert again == [(row["feature_0"],) for row in rows]
    proof.cost(
        "bulk_insert, 1000 rows of 100 columns", statements=statements.total // 2
    )


async def test_what_rows_leave_out_the_database_and_the_model_fill(
    session: AsyncSession,
) -> None:
    await bulk_insert(session, User, users(2))
    await upsert(session, User, users(3), on=ON)

    assert await stored(session, User.id, User.name, User.level) == [
        (1, "nobody", 1),
        (2, "nobody", 1),
        (await session.scalar(sa.select(sa.func.max(User.id))), "nobody", 1),
    ]
    session.add(User(tenant_id=8, email="next@example.com"))
    await session.flush()  # the sequence was not passed by


@pytest.mark.parametrize("count", [1, 3])
async def test_a_key_of_none_is_refused_on_both_databases(
    session: AsyncSession, count: int
) -> None:
    with pytest.raises(ValueError, match="row 0 has None in a key"):
        await bulk_insert(session, User, users(count, id=None))
    with pytest.raises(ValueError, match="row 0 has None in a key"):
        await upsert(session, User, users(count, desk=None), on=["tenant_id", "desk"])

    assert await stored(session, User.id) == []


async def test_an_insert_returns_in_the_order_of_the_input(
    session: AsyncSession, engine: AsyncEngine, database_backend: str, proof: Proof
) -> None:
    rows = users(700)
    with count_sql(engine) as statements:
        ids = await bulk_insert(
            session, User, rows, returning=["email", "id"], batch_size=300
        )

    assert [email for email, _ in ids] == [row["email"] for row in rows]
    assert sorted(ids) == sorted(await stored(session, User.email, User.id))
    assert statements.total == (3 if database_backend == "postgresql" else 700)
    proof.differs(
        "bulk_insert that returns 700 rows, whose keys the database counts up, in"
        " batches of 300",
        f"{statements.total} statements",
    )


async def test_an_insert_returns_by_keys_of_its_own_in_one_statement_per_batch(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    rows = [{"number": f"{-number}"} for number in range(700)]
    with count_sql(engine) as statements:
        ids = await bulk_insert(
            session, Call, rows, returning=["id", "number"], batch_size=300
        )

    with count_sql(engine) as one:
        more = ({"number": f"more {number}"} for number in range(1500))
        await bulk_insert(session, Call, more, returning=["id"], batch_size=1500)

    assert [{"number": number} for _, number in ids] == rows
    assert (statements.total, one.total) == (3, 1)
    proof.cost(
        "bulk_insert returning 700 rows with UUIDs of Python, in batches of 300",
        statements=statements.total,
    )


@pytest.mark.backends("postgresql")
async def test_an_insert_returns_by_keys_that_nobody_can_order_row_by_row(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    connection = await session.connection()
    await connection.run_sync(OnPostgreSQL.metadata.create_all)
    rows = [{"number": f"{-number}"} for number in range(20)]
    with count_sql(engine) as statements:
        stored = await bulk_insert(session, Recording, rows, returning=["number"])
    with count_sql(engine) as silent:
        await bulk_insert(session, Recording, rows)

    assert [{"number": number} for (number,) in stored] == rows
    assert (statements.total, silent.total) == (20, 1)
    proof.cost(
        "bulk_insert returning 20 rows with UUIDs of the database",
        statements=statements.total,
    )


async def test_an_upsert_returns_in_the_order_of_the_input_duplicates_included(
    session: AsyncSession,
) -> None:
    await bulk_insert(session, User, users(2)[1:])
    rows = [{**row, "name": f"{n}"} for n, row in enumerate([*users(3), *users(2)])]

    names = await upsert(session, User, rows, on=ON, returning=["email", "name"])

    emails = [row["email"] for row in rows]
    assert names == list(zip(emails, ["3", "4", "2", "3", "4"], strict=True))


@settings(max_examples=40, suppress_health_check=[*HealthCheck], deadline=None)
@given(
    before=st.dictionaries(st.integers(0, 9), st.integers(0, 9)),
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))),
)
async def test_an_upsert_does_what_a_dictionary_does(
    session: AsyncSession, before: dict[int, int], rows: list[tuple[int, int]]
) -> None:
    def given_as(pairs: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
        return [{**users(1)[0], "email": f"{k}", "level": v} for k, v in pairs]

    await bulk_insert(session, User, given_as(before.items()))
    result = await upsert(
        session, User, given_as(rows), on=ON, returning=["email", "level"]
    )
    held = {int(k): v for k, v in await stored(session, User.email, User.level)}
    await session.rollback()

    expected = {**before, **dict(rows)}
    assert held == expected
    assert result == [(f"{key}", expected[key]) for key, _ in rows]


async def test_fields_that_rows_do_not_give_are_kept_and_the_key_never_changes(
    session: AsyncSession,
) -> None:
    await bulk_insert(session, User, users(1, id=5, name="Ada", desk="2.17"))
    await upsert(session, User, users(1, id=6, name="Countess"), on=ON)

    assert await stored(session, User.id, User.name, User.desk) == [
        (5, "Countess", "2.17")
    ]


async def test_an_onupdate_of_the_model_does_not_run_in_an_upsert(
    session: AsyncSession,
) -> None:
    for _ in range(2):
        await upsert(session, Call, [{"number": "100"}], on=["number"])
    assert (await session.scalars(sa.select(Call.written))).all() == ["first"]


async def test_rows_that_are_nothing_but_their_key_are_returned_when_they_are_there(
    session: AsyncSession,
) -> None:
    rows = [{"user_id": number, "group": "sales"} for number in (2, 1)]
    for _ in range(2):
        result = await upsert(
            session, Membership, rows, on=["user_id", "group"], returning=["user_id"]
        )
        assert result == [(2,), (1,)]


async def test_a_key_that_comes_back_in_another_form_is_refused(
    session: AsyncSession,
) -> None:
    with pytest.raises(ValueError, match="came back in another form"):
        await upsert(session, Login, [{"name": "Ada"}], on=["name"], returning=["name"])
    assert await session.scalar(sa.select(sa.func.count(Login.name))) == 0

    await upsert(session, Login, [{"name": "Ada"}], on=["name"])
    assert await session.scalar(sa.select(Login.name)) == "ada"


async def test_keys_that_cannot_be_put_in_an_order_are_refused(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    rows = [{**row, "tenant_id": n} for n, row in zip([7, "x"], users(2), strict=True)]
    with count_sql(engine) as statements, pytest.raises(TypeError):
        await upsert(session, User, rows, on=ON)

    assert statements.total == 0


async def test_a_tenant_column_fills_itself_and_keeps_two_tenants_apart(
    sessions: Sessions,
) -> None:
    rows = [{"number": "200", "label": "desk"}, {"number": "100", "label": "door"}]
    for number in (7, 8):
        tenant.set(number)
        async with session_scope(sessions) as session:
            await bulk_insert(session, Extension, rows[:1])
            mine = [{**row, "label": f"of {number}"} for row in rows]
            target = ["tenant_id", "number"]
            result = await upsert(
                session, Extension, mine, on=target, returning=["tenant_id", "number"]
            )
            assert result == [(number, "200"), (number, "100")]

    async with session_scope(sessions) as session:
        query = sa.select(Extension.tenant_id, Extension.label).distinct()
        labels = {tuple(row) for row in await session.execute(query)}
        assert labels == {(7, "of 7"), (8, "of 8")}


async def test_a_conflict_target_without_the_tenant_is_refused(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    await bulk_insert(session, User, users(1, id=5))
    theirs = [{"id": 5, "tenant_id": 8, "email": "mallory@example.com"}]
    with count_sql(engine) as statements, pytest.raises(FieldError, match="tenant_id"):
        await upsert(session, User, theirs, on=["id"])
    with count_sql(engine), pytest.raises(RowConflictError):
        await upsert(session, User, theirs, on=ON)

    assert statements.total == 0
    assert await stored(session, User.tenant_id) == [(7,)]


@pytest.mark.parametrize(
    "on", [["tenant_id"], ["tenant_id", "name"], ["tenant_id", "email", "name"]]
)
async def test_a_conflict_target_that_is_not_unique_is_refused(
    session: AsyncSession, engine: AsyncEngine, on: list[str]
) -> None:
    with count_sql(engine) as statements, pytest.raises(ValueError, match="no unique"):
        await upsert(session, User, users(1, name="Ada"), on=on)

    assert statements.total == 0


async def test_a_conflict_target_that_no_row_can_meet_is_refused(
    session: AsyncSession,
) -> None:
    with pytest.raises(FieldError, match=r"User\.desk is in the target and in no row"):
        await upsert(session, User, users(1), on=["tenant_id", "desk"])
    tenantless = [{"email": "ada@example.com"}]
    with pytest.raises(FieldError, match=r"User\.tenant_id is in the target"):
        await upsert(session, User, tenantless, on=ON)
    with pytest.raises(FieldError, match=r"Call\.id is in the target and in no row"):
        await upsert(session, Call, [{"number": "1"}, {"number": "2"}], on=["id"])


@pytest.mark.parametrize(
    "name",
    [
        "nmae",
        "email_address",
        "metadata",
        "__class__",
        "id) VALUES (1); DROP TABLE users; --",
        "name\n2026 ERROR forged",
        "",
    ],
)
async def test_a_name_that_is_no_field_reaches_no_statement(
    session: AsyncSession, engine: AsyncEngine, name: str
) -> None:
    with count_sql(engine) as statements:
        for rows in (users(1, **{name: "x"}), [{name: "x"}]):
            with pytest.raises(FieldError, match="is not a column") as caught:
                await bulk_insert(session, User, rows)
            assert "\n" not in str(caught.value)
            with pytest.raises(FieldError):
                await upsert(session, User, rows, on=ON)
        with pytest.raises(FieldError):
            await bulk_insert(session, User, users(1), returning=[name])
        with pytest.raises(FieldError):
            await upsert(session, User, users(1), on=ON, returning=[name])
        with pytest.raises(FieldError):
            await upsert(session, User, users(1), on=["tenant_id", name])

    assert statements.total == 0


@pytest.mark.parametrize("last", [{"tenant_id": 7}, users(1, desk="1")[0], {}])
async def test_a_row_with_other_fields_than_the_first_is_refused(
    session: AsyncSession, last: dict[str, Any]
) -> None:
    rows = [*users(2), last]
    with pytest.raises(ValueError, match="row 2 does not have the fields of row 0"):
        await bulk_insert(session, User, rows, batch_size=1)
    with pytest.raises(ValueError, match="row 2 does not have the fields of row 0"):
        await upsert(session, User, rows, on=ON)

    assert await stored(session, User.id) == []


async def test_a_row_that_breaks_another_constraint_is_named_and_nothing_is_written(
    session: AsyncSession,
) -> None:
    await bulk_insert(session, User, users(1, desk="2.17"))
    rows = [{**row, "desk": f"{n}"} for n, row in enumerate(users(2000))]
    rows[1234]["desk"] = "3"

    for write in (
        upsert(session, User, rows, on=ON),
        upsert(session, User, rows, on=ON, returning=["id"]),
        bulk_insert(session, User, rows[1:], batch_size=500),
    ):
        with pytest.raises(RowConflictError, match="uq_users_desk") as caught:
            await write
        # An upsert writes in the order of the keys: the later of the two is refused.
        assert caught.value.row in {3, 1234, 1233}

    assert await stored(session, User.desk) == [("2.17",)]


async def test_a_model_that_shares_its_table_is_refused(session: AsyncSession) -> None:
    with pytest.raises(TypeError, match="Voicemail does not have one table to itself"):
        await bulk_insert(session, Voicemail, [{"id": 1}])


async def test_an_insert_reads_its_rows_no_further_than_a_batch_ahead(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    read: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(users(50)):
            read.append(number)
            yield row

    ahead: list[int] = []
    with count_sql(engine) as statements:

        def sent(*_: object) -> None:
            ahead.append(len(read) - 10 * statements.total)

        sa.event.listen(engine.sync_engine, "after_cursor_execute", sent)
        await bulk_insert(session, User, rows(), batch_size=10)

    assert statements.total == 5
    assert max(ahead) <= 11  # what a savepoint finds before the first batch is sent


async def wait_until_blocked(sessions: Sessions, count: int) -> None:
    """Return when as many transactions of this database wait for a lock."""
    waiting = sa.text(
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(60), sessions() as watcher:
        while await watcher.scalar(waiting) != count:
            await watcher.rollback()


def named(*emails: str, name: str = "new") -> list[dict[str, Any]]:
    """Return a row for each address."""
    return [{"tenant_id": 7, "email": email, "name": name} for email in emails]


async def deadlocked(sessions: Sessions, write: Write) -> list[object]:
    """Let two transactions write the same rows in opposite orders; return failures.

    Each is held up after the first of its rows: a third transaction has b and c.
    """
    async with session_scope(sessions) as session:
        await bulk_insert(session, User, named("a", "b", "c", "d", name="old"))

    async def one(*names: str) -> None:
        async with session_scope(sessions) as session:
            await write(session, User, named(*names), on=ON)

    async with sessions() as holder:
        locked = sa.select(User).where(User.email.in_(["b", "c"])).with_for_update()
        await holder.execute(locked)
        first = asyncio.create_task(one("a", "b", "d"))
        await wait_until_blocked(sessions, 1)
        second = asyncio.create_task(one("d", "c", "a"))
        await wait_until_blocked(sessions, 2)
        await holder.rollback()
    ends = await asyncio.gather(first, second, return_exceptions=True)
    return [end for end in ends if end is not None]


@pytest.mark.backends("postgresql")
async def test_two_upserts_of_the_same_keys_in_opposite_orders_do_not_deadlock(
    sessions: Sessions,
) -> None:
    assert await deadlocked(sessions, upsert) == []

    async with session_scope(sessions) as session:
        assert await stored(session, User.name) == [("new",)] * 4


@pytest.mark.backends("postgresql")
async def test_two_upserts_of_a_key_that_is_new_insert_it_once(
    sessions: Sessions,
) -> None:
    async with session_scope(sessions) as first:
        await upsert(first, User, named("a", "b"), on=ON)

        async def other() -> list[tuple[Any, ...]]:
            async with session_scope(sessions) as second:
                return await upsert(
                    second, User, named("b", "a"), on=ON, returning=["email"]
                )

        task = asyncio.create_task(other())
        await wait_until_blocked(sessions, 1)
    assert await task == [("b",), ("a",)]

    async with session_scope(sessions) as session:
        assert await stored(session, User.email) == [("a",), ("b",)]


async def test_the_naive_version_sends_two_statements_per_row(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    with count_sql(engine) as statements:
        await create_many(session, User, users(200))
    with count_sql(engine) as ours:
        await bulk_insert(session, User, users(200, tenant_id=8))

    assert (statements.total, ours.total) == (400, 1)
    proof.breaks("200 users are created in a loop", "400 statements are sent")


async def test_the_naive_version_takes_the_caller_s_work_with_it(
    session: AsyncSession, proof: Proof
) -> None:
    rows = users(3)
    rows[2]["tenant_id"] = None
    before = named("before")
    await bulk_insert(session, User, before)
    with pytest.raises(RowConflictError, match="row 2"):
        await bulk_insert(session, User, rows)
    assert await stored(session, User.email) == [("before",)]

    with pytest.raises(IntegrityError) as refused:
        await create_many(session, User, rows)
    await session.rollback()
    assert "row 2" not in str(refused.value)
    assert await stored(session, User.email) == []
    proof.breaks(
        "The third of three rows violates a constraint",
        "no error names its place, and what the transaction held before is lost",
    )


@pytest.mark.backends("postgresql")
async def test_the_naive_version_deadlocks_with_itself(
    sessions: Sessions, proof: Proof
) -> None:
    (failure,) = await deadlocked(sessions, create_or_update_many)

    assert "deadlock detected" in str(failure)
    proof.breaks(
        "Two transactions update the same users in opposite orders",
        "PostgreSQL detects a deadlock and rolls one of them back",
    )
