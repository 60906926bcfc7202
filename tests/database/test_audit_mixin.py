"""Each write, however it is sent, tells who did it and when, or is not sent."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from snippets.database import audit_mixin_naive
from snippets.database.async_session import (
    SessionDep,
    create_engine_and_sessions,
    relationship,
    session_scope,
)
from snippets.database.audit_mixin import (
    AuditMixin,
    NoActorError,
    current_actor,
    install_audit_mixin,
    set_actor,
)
from snippets.database.audit_mixin_wiring import acts_as
from snippets.database.repository import BaseRepository
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from catalogue.plugin import Proof

    Sessions = async_sessionmaker[AsyncSession]
    Write = Callable[[AsyncSession, dict[str, Any]], Awaitable[object]]

ADA, GRACE = "ada@example.com", "grace@example.com"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ONE = timedelta(minutes=1)


class Base(DeclarativeBase):
    """The tables of these tests."""


class Menu(sa.TypeDecorator[dict[str, str]]):
    """A type of the service's own that is stored as JSON."""

    impl = sa.JSON
    cache_ok = True


class User(AuditMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column("email_address", unique=True)
    desk: Mapped[str | None]
    settings: Mapped[dict[str, str] | None] = mapped_column(sa.JSON)
    menu: Mapped[dict[str, str] | None] = mapped_column(Menu)
    extensions: Mapped[list[Extension]] = relationship()


USERS = Base.metadata.tables["users"]
IS_ADA = User.id == 100


class Extension(AuditMixin, Base):
    """A number that rings at a user's desk."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(sa.ForeignKey(User.id))


class Call(Base):
    """A row that nobody audits, although a column has a familiar name."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))


class NaiveUser(audit_mixin_naive.AuditMixin, Base):
    """The same user with the naive columns."""

    __tablename__ = "naive_users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Clock:
    """A clock that goes on by a minute whenever it is read."""

    def __init__(self) -> None:
        """Show noon when it is read first."""
        self.reads = 0

    def __call__(self) -> datetime:
        """Return the time."""
        self.reads += 1
        return NOON + (self.reads - 1) * ONE


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """An engine, and sessions that are audited, on a database with Ada in it."""
    engine, sessions = create_engine_and_sessions(database_url)
    install_audit_mixin(sessions)
    await create_tables(engine, Base.metadata)
    with set_actor(ADA, clock=lambda: NOON):
        async with session_scope(sessions) as session:
            session.add(User(id=100, email=ADA, desk="1.01", settings={"tone": "a"}))
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


def utc(time: datetime) -> datetime:
    """Return the time as aware; SQLite gives it back without its zone."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


async def audit_of(
    sessions: Sessions, key: object, model: type[Any] = User
) -> tuple[datetime, str, datetime, str]:
    """Return what the database says of a row, read by a session of its own."""
    async with sessions() as session:
        row = await session.get_one(model, key)
        created_at, updated_at = utc(row.created_at), utc(row.updated_at)
        return created_at, row.created_by, updated_at, row.updated_by


def upsert_into(
    session: AsyncSession, target: type[User] | sa.Table
) -> sqlite.Insert | postgresql.Insert:
    """Return the INSERT of the session's dialect that can update instead."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(target)
    return postgresql.insert(target)


async def add(session: AsyncSession, values: dict[str, Any]) -> None:
    session.add(User(**values))
    await session.flush()


async def insert_values(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.insert(User).values(values))


async def insert_rows_as_values(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.insert(User).values([values]))


async def insert_parameters(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.insert(User), values)


async def insert_list(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.insert(User), [values])


async def insert_returning(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.scalars(sa.insert(User).returning(User), [values])


async def insert_from_statement(session: AsyncSession, values: dict[str, Any]) -> None:
    insert = sa.insert(User).values(values).returning(User)
    await session.scalars(sa.select(User).from_statement(insert))


async def insert_from_select(session: AsyncSession, values: dict[str, Any]) -> None:
    names = {"email": "email_address"}
    row = sa.select(*(sa.literal(value) for value in values.values()))
    columns = [names.get(name, name) for name in values]
    await session.execute(sa.insert(USERS).from_select(columns, row))


def by_column(values: dict[str, Any]) -> dict[str, Any]:
    """Return values by the columns' names, as Core knows them."""
    return {User.__mapper__.columns[name].name: values[name] for name in values}


async def core_insert(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.insert(USERS).values(by_column(values)))


async def core_insert_list(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.insert(USERS), [by_column(values)])


async def core_insert_rows(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.insert(USERS).values([by_column(values)]))


async def insert_or_update(session: AsyncSession, values: dict[str, Any]) -> None:
    insert = upsert_into(session, User).values(values)
    sets = {"desk": insert.excluded.desk}
    await session.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_=sets)
    )


async def create(session: AsyncSession, values: dict[str, Any]) -> None:
    await BaseRepository(User, session).create(**values)


INSERTS = [
    add,
    insert_values,
    insert_rows_as_values,
    insert_parameters,
    insert_list,
    insert_returning,
    insert_from_statement,
    insert_from_select,
    core_insert,
    core_insert_list,
    core_insert_rows,
    insert_or_update,
    create,
]


async def change(session: AsyncSession, values: dict[str, Any]) -> None:
    ada = await session.get_one(User, 100)
    for name, value in values.items():
        setattr(ada, name, value)
    await session.flush()


async def update_values(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.update(User).where(IS_ADA).values(values))


async def update_returning(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.scalars(sa.update(User).where(IS_ADA).values(values).returning(User))


async def update_ordered(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.update(User).where(IS_ADA).ordered_values(*values.items()))


async def core_update(session: AsyncSession, values: dict[str, Any]) -> None:
    update = sa.update(USERS).where(USERS.c.id == 100)
    await session.execute(update.values(by_column(values)))


async def upsert(session: AsyncSession, values: dict[str, Any]) -> None:
    insert = upsert_into(session, User).values(id=100, email="not used", desk="-")
    await session.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_=by_column(values))
    )


async def core_upsert(session: AsyncSession, values: dict[str, Any]) -> None:
    given = by_column({"id": 100, "email": ADA, **values})
    insert = upsert_into(session, USERS).values(given)
    sets = {name: insert.excluded[name] for name in given}
    await session.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_=sets)
    )


async def repository_update(session: AsyncSession, values: dict[str, Any]) -> None:
    await BaseRepository(User, session).update(100, **values)


async def update_by_key(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.update(User), [{"id": 100, **values}])


async def update_parameters(session: AsyncSession, values: dict[str, Any]) -> None:
    await session.execute(sa.update(User).where(IS_ADA), values)


async def update_from_statement(session: AsyncSession, values: dict[str, Any]) -> None:
    update = sa.update(User).where(IS_ADA).values(values).returning(User)
    await session.scalars(sa.select(User).from_statement(update))


async def core_update_list(session: AsyncSession, values: dict[str, Any]) -> None:
    update = sa.update(USERS).where(USERS.c.id == sa.bindparam("key"))
    await session.execute(update, [{"key": 100, **by_column(values)}])


COMPARING = [
    change,
    update_values,
    update_returning,
    core_update,
    upsert,
    core_upsert,
    repository_update,
]
"""The ways that tell whether a row really changes."""

GUESSING = [
    update_ordered,
    update_by_key,
    update_parameters,
    update_from_statement,
    core_update_list,
]
"""The ways that count as a change of every row they match."""

UPDATES = [*COMPARING, *GUESSING]


async def outside_of_the_events(session: AsyncSession, values: dict[str, Any]) -> None:
    connection = await session.connection()
    await connection.execute(sa.insert(User).values(values))


@pytest.mark.parametrize("write", [*INSERTS, outside_of_the_events])
async def test_an_insert_tells_who_and_when(sessions: Sessions, write: Write) -> None:
    clock = Clock()
    with set_actor(GRACE, clock=clock):
        async with session_scope(sessions) as session:
            await write(session, {"id": 1, "email": GRACE})

    assert await audit_of(sessions, 1) == (NOON, GRACE, NOON, GRACE)
    assert clock.reads == 1


@pytest.mark.parametrize("write", UPDATES)
async def test_an_update_tells_who_and_when_and_keeps_the_creation(
    sessions: Sessions, write: Write
) -> None:
    with set_actor(GRACE, clock=lambda: NOON + ONE):
        async with session_scope(sessions) as session:
            await write(session, {"desk": "2.17"})

    assert await audit_of(sessions, 100) == (NOON, ADA, NOON + ONE, GRACE)


@pytest.mark.parametrize("write", COMPARING)
async def test_an_update_that_changes_nothing_bumps_nothing(
    sessions: Sessions, write: Write
) -> None:
    for value in ("1.01", None):
        with set_actor(ADA, clock=lambda: NOON):
            async with session_scope(sessions) as session:
                await update_values(session, {"desk": value})
        with set_actor(GRACE):
            async with session_scope(sessions) as session:
                await write(session, {"desk": value})

        assert await audit_of(sessions, 100) == (NOON, ADA, NOON, ADA)


@pytest.mark.parametrize("write", COMPARING)
async def test_a_null_is_a_value_like_others(sessions: Sessions, write: Write) -> None:
    with set_actor(GRACE, clock=lambda: NOON + ONE):
        async with session_scope(sessions) as session:
            await write(session, {"desk": None})
    assert await audit_of(sessions, 100) == (NOON, ADA, NOON + ONE, GRACE)

    with set_actor("linus", clock=lambda: NOON + 2 * ONE):
        async with session_scope(sessions) as session:
            await write(session, {"desk": "1.01"})
    assert await audit_of(sessions, 100) == (NOON, ADA, NOON + 2 * ONE, "linus")


async def test_one_changed_value_among_several_is_a_change(sessions: Sessions) -> None:
    same = {"email": ADA, "desk": sa.literal("1.") + "01"}
    for value, actor in (("1.01", ADA), ("2.17", GRACE)):
        with set_actor(GRACE):
            async with session_scope(sessions) as session:
                await update_values(session, {**same, "desk": value})
        assert (await audit_of(sessions, 100))[3] == actor


async def test_a_value_that_the_database_computes_is_compared_too(
    sessions: Sessions,
) -> None:
    for value, actor in ((sa.func.lower(User.desk), ADA), (User.desk + "a", GRACE)):
        with set_actor(GRACE):
            async with session_scope(sessions) as session:
                await update_values(session, {"desk": value})
        assert (await audit_of(sessions, 100))[3] == actor


@pytest.mark.parametrize("write", GUESSING)
async def test_an_update_which_cannot_tell_counts_as_a_change(
    sessions: Sessions, write: Write
) -> None:
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            await write(session, {"desk": "1.01"})

    assert (await audit_of(sessions, 100))[3] == GRACE


@pytest.mark.parametrize("field", ["settings", "menu"])
async def test_json_in_a_bulk_update_counts_as_a_change(
    sessions: Sessions, field: str
) -> None:
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            await update_values(session, {field: {"tone": "a"}})

    assert (await audit_of(sessions, 100))[3] == GRACE


async def test_of_many_rows_only_those_that_change_are_bumped(
    sessions: Sessions,
) -> None:
    with set_actor(ADA):
        async with session_scope(sessions) as session:
            await insert_list(session, {"id": 1, "email": "x", "desk": "2.17"})
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            await session.execute(sa.update(User).values(desk="2.17"))

    assert (await audit_of(sessions, 1))[3] == ADA
    assert (await audit_of(sessions, 100))[3] == GRACE


async def test_all_rows_of_a_statement_have_one_time(sessions: Sessions) -> None:
    clock = Clock()
    rows = [{"id": key, "email": str(key)} for key in range(3)]
    with set_actor(ADA, clock=clock):
        async with session_scope(sessions) as session:
            await session.execute(sa.insert(User), rows)

    assert {await audit_of(sessions, key) for key in range(3)} == {
        (NOON, ADA, NOON, ADA)
    }
    assert clock.reads == 1


async def test_a_foreign_key_that_the_flush_sets_is_a_change_of_the_child(
    sessions: Sessions,
) -> None:
    with set_actor(ADA, clock=lambda: NOON):
        async with session_scope(sessions) as session:
            session.add(Extension(number="1001"))
    with set_actor(GRACE, clock=lambda: NOON + ONE):
        async with session_scope(sessions) as session:
            extensions = [sa.orm.selectinload(User.extensions)]
            ada = await session.get_one(User, 100, options=extensions)
            ada.extensions.append(await session.get_one(Extension, "1001"))

    row = await audit_of(sessions, "1001", Extension)
    assert row == (NOON, ADA, NOON + ONE, GRACE)
    assert await audit_of(sessions, 100) == (NOON, ADA, NOON, ADA)


async def test_without_an_actor_nothing_is_sent(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    new, changed = {"id": 1, "email": GRACE}, {"desk": "2.17"}
    inserts = product((*INSERTS, outside_of_the_events), [new])
    with count_sql(engine) as sent:
        for write, values in (*inserts, *product(UPDATES, [changed])):
            async with sessions() as session:
                with pytest.raises(NoActorError, match="nobody is writing"):
                    await write(session, values)

    assert {text.split()[0] for text in sent.texts} == {"SELECT"}


async def test_the_missing_actor_quotes_no_value(sessions: Sessions) -> None:
    canary = "canary-4f1c@example.com"
    async with sessions() as session:
        with pytest.raises(NoActorError) as caught:
            await insert_values(session, {"id": 1, "email": canary})
    told = "".join(traceback.format_exception(caught.value))
    assert canary not in told


async def test_a_commit_after_the_block_fails_and_writes_nothing(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        with set_actor(GRACE):
            session.add(User(id=1, email=GRACE))
        with pytest.raises(NoActorError):
            await session.commit()
    async with sessions() as session:
        assert await session.get(User, 1) is None


@pytest.mark.parametrize(
    "actor", ["", "x" * 256, "nul\0", "line\nbreak", "line\rbreak", "\ud800"]
)
def test_an_actor_that_no_column_holds_is_refused(actor: str) -> None:
    with pytest.raises(ValueError, match="1 to 255 printable"), set_actor(actor):
        pass


async def test_the_longest_actor_fits(sessions: Sessions) -> None:
    with set_actor("x" * 255):
        async with session_scope(sessions) as session:
            await insert_values(session, {"id": 1, "email": GRACE})
    assert (await audit_of(sessions, 1))[1] == "x" * 255


def test_a_block_gives_back_the_actor_before_it() -> None:
    with set_actor("system:retention"):
        with suppress(LookupError), set_actor(ADA):
            assert current_actor() == ADA
            raise LookupError("no such user")
        assert current_actor() == "system:retention"
    with pytest.raises(NoActorError):
        current_actor()


@pytest.mark.parametrize(
    "write",
    [
        lambda session: session.bulk_save_objects([User(id=1, email="x")]),
        lambda session: session.bulk_insert_mappings(User, [{"id": 1, "email": "x"}]),
        lambda session: session.bulk_update_mappings(User, [{"id": 100, "desk": "x"}]),
    ],
)
async def test_bulk_methods_which_pass_no_event_are_refused(
    sessions: Sessions, write: Callable[[Session], None]
) -> None:
    with set_actor(GRACE):
        async with sessions() as session:
            with pytest.raises(InvalidRequestError, match="send a statement"):
                await session.run_sync(write)


LIGHT: Any = sa.table("users", sa.column("id"), sa.column("created_by"))
ALIAS: Any = USERS.alias()
COPY: Any = USERS.to_metadata(sa.MetaData())
MALLORY = {"created_by": "mallory"}
ELSEWHERE: dict[str, sa.Executable] = {
    "sa.table": sa.update(LIGHT).values(MALLORY),
    "sa.table, inserting": sa.insert(LIGHT).values(id=1, **MALLORY),
    "sa.table, with a schema": sa.update(sa.table("Users", schema="x")).values(MALLORY),
    "copy": sa.update(COPY).values(MALLORY),
    "alias": sa.update(aliased(User)).values(MALLORY),
    "alias of the table": sa.update(ALIAS).values(MALLORY),
    "alias of a copy": sa.update(COPY.alias()).values(MALLORY),
    "cte": sa.select(sa.update(User).values(MALLORY).returning(User.id).cte()),
    "cte of an insert": sa.select(
        sa.insert(USERS).values(email_address="x").returning(USERS.c.id).cte()
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_a_write_elsewhere_than_to_the_model_is_refused(
    sessions: Sessions, name: str
) -> None:
    with set_actor(GRACE):
        async with sessions() as session:
            with pytest.raises(InvalidRequestError, match="write to a model itself"):
                await session.execute(ELSEWHERE[name])


FORGED: dict[str, object] = {
    "created_at": NOON - ONE,
    "created_by": "mallory",
    "updated_at": NOON - ONE,
    "updated_by": "mallory",
}


async def test_an_insert_may_not_give_the_columns_values(sessions: Sessions) -> None:
    for write, name in product(INSERTS, FORGED):
        async with sessions() as session:
            with set_actor(GRACE), pytest.raises(InvalidRequestError, match=f"^{name}"):
                await write(session, {"id": 1, "email": GRACE, name: FORGED[name]})
            session.expunge_all()
            await session.commit()
    async with sessions() as session:
        assert await session.get(User, 1) is None


async def test_an_update_may_not_give_the_columns_values(sessions: Sessions) -> None:
    for write, name in product(UPDATES, FORGED):
        refused = (InvalidRequestError, ValueError)  # the repository refuses some first
        async with sessions() as session:
            with set_actor(GRACE), pytest.raises(refused, match=rf"\b{name}\b"):
                await write(session, {name: FORGED[name]})
            session.expunge_all()
            await session.commit()
    assert await audit_of(sessions, 100) == (NOON, ADA, NOON, ADA)


async def test_rows_given_as_tuples_may_not_either(sessions: Sessions) -> None:
    forged = [FORGED.get(column.name, 1) for column in USERS.c]
    async with sessions() as session:
        with set_actor(GRACE), pytest.raises(InvalidRequestError):
            await session.execute(sa.insert(USERS).values([tuple(forged)]))


async def test_a_table_without_the_mixin_is_left_alone(sessions: Sessions) -> None:
    async with session_scope(sessions) as session:
        session.add(Call(id=1, created_at=NOON))
        await session.flush()
        await session.execute(sa.update(Call).values(created_at=NOON + ONE))
        await session.execute(sa.insert(Call), [{"id": 2, "created_at": NOON}])
        times = await session.scalars(sa.select(Call.created_at).order_by(Call.id))
        assert [time.replace(tzinfo=UTC) for time in times] == [NOON + ONE, NOON]


async def test_a_session_made_otherwise_is_not_watched_but_still_filled(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with AsyncSession(engine) as session:
        with set_actor(GRACE):
            await insert_values(
                session, {"id": 1, "email": "a", "created_by": "import"}
            )
            await insert_values(session, {"id": 2, "email": "b"})
            await session.commit()
    assert (await audit_of(sessions, 1))[1] == "import"
    assert (await audit_of(sessions, 2))[1] == GRACE


async def test_an_instance_that_an_update_reached_is_refreshed_to_be_read(
    sessions: Sessions,
) -> None:
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            ada = await session.get_one(User, 100)
            await update_values(session, {"desk": "2.17"})
            await session.refresh(ada)
            assert ada.updated_by == GRACE


async def test_raw_sql_gets_the_server_s_time_and_needs_an_actor(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with engine.begin() as connection:
        before = utc((await connection.scalars(sa.select(sa.func.now()))).one())
        await connection.execute(
            sa.text(
                "INSERT INTO users (id, email_address, created_by, updated_by)"
                " VALUES (1, 'x', 'import', 'import')"
            )
        )
    created_at, by, updated_at, _ = await audit_of(sessions, 1)
    assert created_at == updated_at
    assert by == "import"
    assert before <= created_at <= before + ONE

    async with engine.connect() as connection:
        with pytest.raises(IntegrityError, match="created_by"):
            await connection.execute(
                sa.text("INSERT INTO users (id, email_address) VALUES (2, 'y')")
            )


async def test_a_time_read_back(
    sessions: Sessions, database_backend: str, proof: Proof
) -> None:
    async with sessions() as session:
        ada = await session.get_one(User, 100)
    aware = ada.created_at.tzinfo is not None
    assert aware == (database_backend == "postgresql")
    assert utc(ada.created_at) == NOON
    proof.differs("A time read back is", "aware" if aware else "naive, and in UTC")


async def test_a_clock_elsewhere_in_the_world_is_stored_as_utc(
    sessions: Sessions,
) -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    with set_actor(GRACE, clock=lambda: tokyo):
        async with session_scope(sessions) as session:
            await insert_values(session, {"id": 1, "email": GRACE})
    assert (await audit_of(sessions, 1))[0] == NOON


async def test_two_tasks_that_write_at_once_keep_their_own_actors(
    sessions: Sessions,
) -> None:
    both_entered = asyncio.Barrier(2)
    ada_flushed = asyncio.Event()

    async def write(actor: str, key: int) -> None:
        with set_actor(actor):
            async with session_scope(sessions) as session:
                await both_entered.wait()
                if actor == GRACE:
                    await ada_flushed.wait()
                await insert_values(session, {"id": key, "email": actor + "!"})
                session.add(Extension(number=str(key)))
                # SQLite has one writer at a time, so the commit comes first.
                await session.commit()
                ada_flushed.set()

    await asyncio.gather(write(ADA, 1), write(GRACE, 2))

    for actor, key in ((ADA, 1), (GRACE, 2)):
        assert (await audit_of(sessions, key))[1::2] == (actor, actor)
        extension = await audit_of(sessions, str(key), Extension)
        assert extension[1::2] == (actor, actor)


async def test_two_requests_at_once_keep_their_own_actors(sessions: Sessions) -> None:
    both_are_in = asyncio.Barrier(2)
    first_is_done = asyncio.Event()

    def current_user(request: Request) -> str:
        return request.headers["x-user"]

    app = FastAPI(dependencies=[Depends(acts_as(current_user))])
    app.state.sessions = sessions

    @app.post("/users/{key}")
    async def create_user(key: int, session: SessionDep) -> None:
        await both_are_in.wait()
        if key == 2:
            await first_is_done.wait()
        session.add(User(id=key, email=str(key)))  # flushed by the commit

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:

        async def post(key: int, user: str) -> None:
            response = await client.post(f"/users/{key}", headers={"x-user": user})
            assert response.status_code == 200
            first_is_done.set()

        await asyncio.gather(post(1, ADA), post(2, GRACE))

    assert (await audit_of(sessions, 1))[1::2] == (ADA, ADA)
    assert (await audit_of(sessions, 2))[1::2] == (GRACE, GRACE)
    with pytest.raises(NoActorError):
        current_actor()


async def test_a_task_that_a_request_starts_acts_for_its_user(
    sessions: Sessions,
) -> None:
    async def later() -> None:
        async with session_scope(sessions) as session:
            await insert_values(session, {"id": 1, "email": GRACE})

    with set_actor(GRACE):
        task = asyncio.create_task(later())
    await task
    assert (await audit_of(sessions, 1))[1] == GRACE


@pytest.mark.parametrize(
    ("operation", "write"),
    [
        ("one insert", insert_values),
        ("one insert by the unit of work", add),
        ("one upsert", insert_or_update),
    ],
)
async def test_an_audited_insert_costs_no_further_statement(
    engine: AsyncEngine,
    sessions: Sessions,
    proof: Proof,
    operation: str,
    write: Write,
) -> None:
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            with count_sql(engine) as statements:
                await write(session, {"id": 1, "email": GRACE})
    assert statements.total == 1
    proof.cost(operation, statements=1)


async def test_an_audited_update_costs_no_further_statement(
    engine: AsyncEngine, sessions: Sessions, proof: Proof
) -> None:
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            ada = await session.get_one(User, 100)
            ada.desk = "2.17"
            with count_sql(engine) as flushed:
                await session.flush()
            with count_sql(engine) as bulk:
                await update_values(session, {"desk": "2.18"})
    assert (flushed.total, bulk.total) == (1, 1)
    proof.cost("one update by the unit of work", statements=1)
    proof.cost("one bulk update of any number of rows", statements=1)


async def test_the_naive_columns_miss_what_the_unit_of_work_does_not_send(
    sessions: Sessions, proof: Proof
) -> None:
    token = audit_mixin_naive.actor.set(ADA)
    async with session_scope(sessions) as session:
        ada = NaiveUser(email=ADA)
        session.add(ada)
        insert = sa.insert(NaiveUser).values(email=GRACE).returning(NaiveUser)
        grace = (await session.scalars(insert)).one()
    assert (ada.created_by, grace.created_by) == (ADA, None)
    proof.breaks(
        "A row is created by an INSERT statement, as the repository sends it",
        "created_by stays NULL",
    )

    audit_mixin_naive.actor.set(GRACE)
    async with session_scope(sessions) as session:
        await session.execute(sa.update(NaiveUser).values(email="x"))
        ada = await session.get_one(NaiveUser, ada.id, populate_existing=True)
    audit_mixin_naive.actor.reset(token)
    assert utc(ada.updated_at) > utc(ada.created_at)
    assert ada.updated_by == ADA
    proof.breaks(
        "Grace changes every user with one bulk UPDATE",
        "updated_at moves and updated_by stays, so the row blames Ada",
    )


async def test_the_naive_columns_can_be_forged_and_left_empty(
    sessions: Sessions, proof: Proof
) -> None:
    async with session_scope(sessions) as session:
        ada = NaiveUser(email=ADA)
        session.add(ada)
    assert ada.created_by is None
    proof.breaks("A job that nobody started writes", "a row that nobody created")

    payload = {"email": "x", "created_by": "mallory"}
    async with session_scope(sessions) as session:
        await session.execute(sa.update(NaiveUser).values(payload))
        ada = await session.get_one(NaiveUser, ada.id)
    assert ada.created_by == "mallory"
    proof.breaks("A client's payload holds created_by", "the row's creator changes")
