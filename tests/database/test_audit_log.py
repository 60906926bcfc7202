"""Each change of an audited row has one entry, which nobody can change or remove."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI, Header
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from snippets.database import audit_log_naive
from snippets.database.async_session import (
    SessionDep,
    create_engine_and_sessions,
    session_scope,
)
from snippets.database.audit_log import (
    AppendOnlyError,
    AuditBase,
    AuditEntry,
    install_audit_log,
    set_origin,
)
from snippets.database.audit_mixin import NoActorError, set_actor
from snippets.database.repository import BaseRepository
from snippets.database.row_diff import MASK, UnrecordedError
from tests.support.audited_telephony import Base, Device, Extension, User
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from catalogue.plugin import Proof

    Sessions = async_sessionmaker[AsyncSession]
    Write = Callable[[AsyncSession], Awaitable[object]]

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ENTRIES = AuditBase.metadata.tables["audit_entries"]


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """An engine, and sessions that keep a log, on a database with user 100 in it."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata, AuditBase.metadata)
    async with sessions.begin() as session:
        session.add(User(id=100, email="ada", desk="1.01", pin="1234"))
    install_audit_log(sessions, clock=lambda: NOON)
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


async def entries(engine: AsyncEngine) -> Sequence[AuditEntry]:
    """Return the log as a session of another factory reads it."""
    async with AsyncSession(engine) as session:
        query = sa.select(AuditEntry).order_by(AuditEntry.id)
        return (await session.scalars(query)).all()


async def by_instance(session: AsyncSession) -> None:
    (await session.get_one(User, 100)).desk = "2"
    await session.flush()


async def by_statement(session: AsyncSession) -> None:
    await session.execute(sa.update(User).values(desk="2"))


async def by_table(session: AsyncSession) -> None:
    await session.execute(sa.update(Base.metadata.tables["users"]).values(desk="2"))


async def by_repository(session: AsyncSession) -> None:
    assert await BaseRepository(User, session).update(100, desk="2")


WRITES = [by_instance, by_statement, by_table, by_repository]


@pytest.mark.parametrize("write", WRITES)
async def test_an_entry_tells_who_when_for_whom_and_what(
    engine: AsyncEngine, sessions: Sessions, write: Write
) -> None:
    with set_actor("ada"), set_origin(tenant="acme", request_id="r-1"):
        async with session_scope(sessions) as session:
            await write(session)
    [entry] = await entries(engine)
    assert entry.at.replace(tzinfo=UTC) == NOON
    assert (entry.actor, entry.tenant, entry.request_id) == ("ada", "acme", "r-1")
    assert (entry.action, entry.table_name) == ("update", "users")
    assert (entry.row_key, entry.changed) == ("[100]", {"desk": ["1.01", "2"]})


async def test_a_clock_elsewhere_in_the_world_is_stored_as_utc(
    engine: AsyncEngine, database_url: str
) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=9)))
    other, sessions = create_engine_and_sessions(database_url)
    install_audit_log(sessions, clock=lambda: there)
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            await by_instance(session)
    await other.dispose()
    [entry] = await entries(engine)
    assert entry.at.replace(tzinfo=UTC) == NOON


@pytest.mark.parametrize("write", WRITES)
async def test_a_rollback_takes_the_entry_along(
    engine: AsyncEngine, sessions: Sessions, write: Write
) -> None:
    with set_actor("ada"):
        async with sessions() as session:
            await write(session)
            await session.rollback()
    assert await entries(engine) == []


@pytest.mark.parametrize("write", WRITES)
async def test_a_savepoint_that_is_rolled_back_leaves_no_entry(
    engine: AsyncEngine, sessions: Sessions, write: Write
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            session.add(User(id=1, email="before"))
            savepoint = await session.begin_nested()
            await write(session)
            await savepoint.rollback()
            session.add(User(id=2, email="after"))
    assert [one.row_key for one in await entries(engine)] == ["[1]", "[2]"]


@pytest.mark.parametrize("write", WRITES)
async def test_a_change_without_an_actor_is_rolled_back(
    engine: AsyncEngine, sessions: Sessions, write: Write
) -> None:
    async with session_scope(sessions) as session:
        with pytest.raises(NoActorError):
            await write(session)
    assert await entries(engine) == []
    async with AsyncSession(engine) as session:
        assert (await session.get_one(User, 100)).desk == "1.01"


@pytest.mark.parametrize("write", WRITES)
async def test_a_change_whose_entry_fails_is_rolled_back(
    engine: AsyncEngine, sessions: Sessions, write: Write
) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE audit_entries"))
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            with pytest.raises(DBAPIError):
                await write(session)
    async with AsyncSession(engine) as session:
        assert (await session.get_one(User, 100)).desk == "1.01"


async def test_a_change_that_cannot_be_told_is_rolled_back(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    update = sa.update(User).values(desk="2", settings={"tone": "\ud800"})
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            with pytest.raises(UnrecordedError, match=r"users\.settings"):
                await session.execute(update)
    assert await entries(engine) == []
    async with AsyncSession(engine) as session:
        assert (await session.get_one(User, 100)).desk == "1.01"


async def test_ids_rise_from_write_to_write_and_from_row_to_row(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            extension = Extension(tenant=1, number="1001")
            session.add(User(id=7, email="grace", extensions=[extension]))
            await session.flush()
            await session.execute(sa.insert(Device), [{"number": "1"}] * 1500)
            await session.execute(sa.update(User).values(desk="2"))
            extension.number = "1001"
            await session.execute(sa.delete(Extension))
    found = await entries(engine)
    devices = [int(one.row_key[1:-1]) for one in found if one.table_name == "devices"]
    assert devices == sorted(devices)
    assert [one.row_key for one in found if one.table_name != "devices"] == [
        "[7]",
        '[1,"1001"]',
        "[7]",
        "[100]",
        '[1,"1001"]',
    ]


async def test_a_flush_and_a_statement_cost_one_insert_of_many_rows(
    engine: AsyncEngine, sessions: Sessions, proof: Proof
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            session.add_all(User(email=f"flushed {n}") for n in range(40))
            with count_sql(engine) as seen:
                await session.flush()
            inserts = [text for text in seen.texts if "INTO audit_entries" in text]
            assert [text.count("), (") for text in inserts] == [39]
            proof.cost("a flush of 40 rows", inserts_of_entries=1)
            with count_sql(engine) as seen:
                await session.execute(sa.update(User).values(desk="2"))
            inserts = [text for text in seen.texts if "INTO audit_entries" in text]
            assert (len(inserts), seen.total, seen.savepoints) == (1, 4, 1)
            proof.cost(
                "a bulk UPDATE of 41 rows",
                inserts_of_entries=1,
                statements=4,
                savepoints=1,
            )
    assert len(await entries(engine)) == 81


async def test_a_secret_and_hostile_text_are_kept_as_they_must_be(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    hostile = "\x01\x1b[2J'; DROP TABLE users; --\u202e%s"
    huge = {"tone": "x" * 1_000_000, "nul": "\u0000"}
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            user = await session.get_one(User, 100)
            user.desk, user.pin, user.settings = hostile, "9876", huge
    [entry] = await entries(engine)
    assert entry.changed["desk"] == ["1.01", hostile]
    assert entry.changed["pin"] == [MASK, MASK]
    assert entry.changed["settings"][0] is None
    assert entry.changed["settings"][1].keys() == {"bytes", "sha256"}


@pytest.mark.parametrize("text", ["x" * 256, "line\nbreak", "nul\0"])
def test_an_origin_that_cannot_be_stored_is_refused(text: str) -> None:
    with (
        pytest.raises(ValueError, match="printable"),
        set_origin(tenant=None, request_id=text),
    ):
        pass


TAMPERING = [
    "UPDATE audit_entries SET actor = 'eve'",
    "UPDATE audit_entries SET actor = 'eve' WHERE id = 1",
    "DELETE FROM audit_entries",
]


@pytest.mark.parametrize("statement", TAMPERING)
async def test_the_database_refuses_to_rewrite_the_log(
    engine: AsyncEngine, sessions: Sessions, statement: str
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            await by_instance(session)
    with pytest.raises(DBAPIError, match="append-only"):
        async with engine.begin() as connection:
            await connection.execute(sa.text(statement))
    [entry] = await entries(engine)
    assert entry.actor == "ada"


REPLACEMENT = {
    "id": 1,
    "at": NOON,
    "actor": "eve",
    "action": "update",
    "table_name": "users",
    "row_key": "[100]",
    "changed": {},
}


async def test_no_entry_takes_the_place_of_another(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            await by_instance(session)
    sqlite = engine.dialect.name == "sqlite"
    insert = sa.insert(ENTRIES).values(REPLACEMENT)
    if sqlite:
        insert = insert.prefix_with("OR REPLACE")
    async with engine.connect() as connection:
        with pytest.raises(
            DBAPIError, match="append-only" if sqlite else "non-DEFAULT"
        ):
            await connection.execute(insert)
    [entry] = await entries(engine)
    assert entry.actor == "ada"


async def test_an_id_is_not_given_again_after_the_owner_has_erased_its_entry(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            await by_instance(session)
    [erased] = await entries(engine)
    drop = {
        "sqlite": "DROP TRIGGER audit_entries_delete",
        "postgresql": "DROP TRIGGER audit_entries_append_only ON audit_entries",
    }
    async with engine.begin() as connection:
        await connection.exec_driver_sql(drop[engine.dialect.name])
        await connection.execute(sa.delete(ENTRIES))
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            (await session.get_one(User, 100)).desk = "3"
    [entry] = await entries(engine)
    assert entry.id > erased.id


@pytest.mark.backends("postgresql")
async def test_the_log_cannot_be_truncated(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        async with engine.begin() as connection:
            await connection.execute(sa.text("TRUNCATE audit_entries"))


async def forge(session: AsyncSession) -> None:
    session.add(AuditEntry(**REPLACEMENT))
    await session.flush()


async def rewrite(session: AsyncSession) -> None:
    (await session.scalars(sa.select(AuditEntry))).one().actor = "eve"
    await session.flush()


async def remove(session: AsyncSession) -> None:
    await session.delete((await session.scalars(sa.select(AuditEntry))).one())
    await session.flush()


@pytest.mark.parametrize(
    "write",
    [
        forge,
        rewrite,
        remove,
        lambda session: session.execute(sa.insert(AuditEntry), [REPLACEMENT]),
        lambda session: session.execute(sa.update(AuditEntry).values(actor="eve")),
        lambda session: session.execute(sa.delete(ENTRIES)),
    ],
)
async def test_a_session_refuses_to_write_entries_itself(
    engine: AsyncEngine, sessions: Sessions, write: Write
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            await by_instance(session)
        async with sessions() as session:
            with pytest.raises(AppendOnlyError):
                await write(session)
    [entry] = await entries(engine)
    assert entry.actor == "ada"


async def test_two_requests_at_once_keep_their_own_actors(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    application = FastAPI()
    application.state.sessions = sessions
    both = asyncio.Barrier(2)

    async def act(
        x_user: str = Header(), x_request_id: str = Header()
    ) -> AsyncIterator[None]:
        with (
            set_actor(x_user),
            set_origin(tenant=f"of {x_user}", request_id=x_request_id),
        ):
            yield

    @application.post("/users", dependencies=[Depends(act)])
    async def create(email: str, session: SessionDep) -> None:
        await both.wait()  # each has its actor now, and neither has written
        session.add(User(email=email))

    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:

        async def post(user: str) -> httpx.Response:
            headers = {"x-user": user, "x-request-id": f"r-{user}"}
            return await client.post("/users", params={"email": user}, headers=headers)

        answers = await asyncio.gather(post("grace"), post("linus"))
    assert [answer.status_code for answer in answers] == [200, 200]
    found = {one.changed["email_address"][1]: one for one in await entries(engine)}
    for user in ("grace", "linus"):
        entry = found[user]
        assert entry.actor == user
        assert (entry.tenant, entry.request_id) == (f"of {user}", f"r-{user}")


async def test_a_cancelled_request_leaves_neither_change_nor_entry(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    written = asyncio.Event()

    async def work() -> None:
        with set_actor("ada"):
            async with session_scope(sessions) as session:
                await by_statement(session)
                written.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await entries(engine) == []
    async with AsyncSession(engine) as session:
        assert (await session.get_one(User, 100)).desk == "1.01"


ddl: Any = sa.DDL
LIGHT: Any = sa.table("audit_entries", sa.column("id"), sa.column("actor"))
COPY = ENTRIES.to_metadata(sa.MetaData())
FORGING: list[sa.Executable] = [
    sa.insert(LIGHT).values(actor="eve"),
    sa.update(LIGHT).values(actor="eve"),
    sa.delete(LIGHT.alias()),
    sa.insert(COPY).values(actor="eve"),
    sa.insert(ENTRIES).values(actor="eve"),
    sa.text("INSERT INTO audit_entries (actor) VALUES ('eve')"),
    ddl("INSERT INTO Audit_Entries (actor) VALUES ('eve')"),
    sa.select(sa.insert(LIGHT).values(actor="eve").returning(LIGHT.c.id).cte()),
]


@pytest.mark.parametrize("statement", FORGING, ids=str)
async def test_no_session_writes_entries_however_it_names_their_table(
    engine: AsyncEngine, sessions: Sessions, statement: sa.Executable
) -> None:
    with set_actor("ada"):
        async with session_scope(sessions) as session:
            with pytest.raises(AppendOnlyError):
                await session.execute(statement)
    assert await entries(engine) == []


async def test_installing_twice_for_two_factories_tells_each_change_once(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    other: Any = async_sessionmaker(engine)
    install_audit_log(other)
    with set_actor("ada"):
        async with other.begin() as session:
            session.add(User(id=7, email="grace"))
        async with session_scope(sessions) as session:
            session.add(User(id=8, email="linus"))
    assert [one.row_key for one in await entries(engine)] == ["[7]", "[8]"]


async def test_the_naive_version_keeps_an_entry_of_what_was_rolled_back(
    engine: AsyncEngine, proof: Proof
) -> None:
    naive = async_sessionmaker(engine)
    await create_tables(engine, audit_log_naive.LogBase.metadata)

    async with naive() as session:

        @audit_log_naive.audited(naive)
        async def create_user() -> None:
            session.add(User(email="ada"))

        @audit_log_naive.audited(naive)
        async def delete_user() -> None:
            await session.execute(sa.delete(User).where(User.id == 404))
            await session.rollback()

        await create_user()
        with pytest.raises(IntegrityError):
            await session.commit()
        await session.rollback()
        await delete_user()
    async with naive() as session:
        query = sa.select(audit_log_naive.Entry.action)
        query = query.order_by(audit_log_naive.Entry.id)
        assert (await session.scalars(query)).all() == ["create_user", "delete_user"]
        assert (await session.scalars(sa.select(User.email))).all() == ["ada"]
    proof.breaks("The transaction is rolled back.", "The entry is there all the same.")
    proof.breaks("`delete_user` finds no such user.", "The log says `delete_user`.")
