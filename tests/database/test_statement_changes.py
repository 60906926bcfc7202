"""A statement tells what it did to each row, or is refused before it is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, aliased
from sqlalchemy.util.concurrency import await_

from snippets.database import statement_changes_naive
from snippets.database.async_session import session_scope
from snippets.database.conflict import ConflictError
from snippets.database.repository import BaseRepository
from snippets.database.row_changes import tell_flushes
from snippets.database.row_diff import MASK, UnrecordedError
from snippets.database.statement_changes import MOST_ROWS, tell_statements
from tests.support.audited_telephony import (
    Base,
    Call,
    Device,
    DiskFullError,
    Employee,
    Extension,
    Telephony,
    User,
    telephony,
)
from tests.support.counters import count_sql

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from catalogue.plugin import Proof

    Write = Callable[[AsyncSession], Awaitable[object]]

USERS = Base.metadata.tables["users"]
GRACE = {"id": 7, "email": "grace", "pin": "9876"}
IN_CORE = {"id": 7, "email_address": "grace", "pin": "9876"}


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Telephony]:
    """A platform that is told of statements and flushes."""
    async with telephony(database_url, tell_flushes, tell_statements) as platform:
        yield platform


async def desk(platform: Telephony, key: int = 100) -> str | None:
    """Return a user's desk as a session of another factory sees it."""
    async with platform.engine.connect() as connection:
        query = sa.select(USERS.c.desk).where(USERS.c.id == key)
        found: str | None = await connection.scalar(query)
        return found


def dialect_insert(
    session: AsyncSession, target: type[User] | sa.Table = User
) -> sqlite.Insert | postgresql.Insert:
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(target)
    return postgresql.insert(target)


async def insert_or_nothing(session: AsyncSession) -> None:
    insert = dialect_insert(session).values([GRACE, {**GRACE, "id": 8}])
    await session.execute(insert.on_conflict_do_nothing())


async def insert_from_select(session: AsyncSession) -> None:
    row = sa.select(*(sa.literal(value) for value in IN_CORE.values()))
    await session.execute(sa.insert(USERS).from_select([*IN_CORE], row))


INSERTS: dict[str, Write] = {
    "values": lambda s: s.execute(sa.insert(User).values(GRACE)),
    "rows": lambda s: s.execute(sa.insert(User).values([GRACE])),
    "one": lambda s: s.execute(sa.insert(User), GRACE),
    "list": lambda s: s.execute(sa.insert(User), [GRACE]),
    "returning": lambda s: s.scalars(sa.insert(User).returning(User), [GRACE]),
    "core": lambda s: s.execute(sa.insert(USERS).values(IN_CORE)),
    "core list": lambda s: s.execute(sa.insert(USERS), [IN_CORE]),
    "core returning": lambda s: s.execute(
        sa.insert(USERS).returning(USERS.c.email_address), [IN_CORE]
    ),
    "select": insert_from_select,
    "or nothing": insert_or_nothing,
    "repository": lambda s: BaseRepository(User, s).create(**GRACE),
}


@pytest.mark.parametrize("name", INSERTS)
async def test_an_insert_tells_each_row(platform: Telephony, name: str) -> None:
    async with session_scope(platform.sessions) as session:
        await INSERTS[name](session)
    assert platform.told == [("insert", "users", "[7]")]
    assert platform.changed == [
        {"id": (None, 7), "email_address": (None, "grace"), "pin": (None, MASK)}
    ]


async def test_an_insert_tells_the_keys_that_the_server_gave_in_order(
    platform: Telephony,
) -> None:
    rows = [{"number": str(n)} for n in range(1500)]
    async with session_scope(platform.sessions) as session:
        insert = sa.insert(Device).returning(Device.id, sort_by_parameter_order=True)
        keys = (await session.scalars(insert, rows)).all()
    assert platform.told == [("insert", "devices", f"[{key}]") for key in keys]
    assert [change["number"][1] for change in platform.changed] == [
        row["number"] for row in rows
    ]


@pytest.mark.parametrize(
    "insert",
    [
        sa.insert(User).values(email="a"),
        sa.insert(USERS).values(email_address="a"),
    ],
    ids=["class", "table"],
)
async def test_the_result_of_an_insert_does_not_tell_its_key_unasked(
    platform: Telephony, insert: sa.Insert
) -> None:
    async with session_scope(platform.sessions) as session:
        result: Any = await session.execute(insert)
        with pytest.raises((AttributeError, InvalidRequestError), match="inserted_pri"):
            _ = result.inserted_primary_key
    assert len(platform.told) == 1


async def test_what_an_insert_is_returning_is_what_was_asked_for(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        insert = sa.insert(User).values(email="a").returning(User)
        user = (await session.scalars(insert)).one()
        assert user in session
        columns = sa.insert(User).values(email="b").returning(User.email, User.id)
        assert (await session.execute(columns)).one() == ("b", user.id + 1)
        in_core = sa.insert(USERS).returning(USERS.c.email_address)
        result = await session.execute(in_core, [{"email_address": "c"}])
        assert result.keys() == ["email_address"]
        assert result.scalars().all() == ["c"]
        assert (await session.execute(sa.insert(User), [{"email": "d"}])).all() == []


UPDATES: dict[str, Write] = {
    "model": lambda s: s.execute(
        sa.update(User).where(User.email == "ada").values(desk="2")
    ),
    "all": lambda s: s.execute(sa.update(User).values(desk="2")),
    "expression": lambda s: s.execute(
        sa.update(User).values(desk=sa.func.substr("123", 2, 1))
    ),
    "no longer matching": lambda s: s.execute(
        sa.update(User).where(User.desk == "1.01").values(desk="2")
    ),
    "table": lambda s: s.execute(
        sa.update(USERS).where(USERS.c.id == 100).values(desk="2")
    ),
    "parameters": lambda s: s.execute(
        sa.update(USERS).where(USERS.c.id == sa.bindparam("key")).values(desk="2"),
        {"key": 100},
    ),
    "values as parameters": lambda s: s.execute(sa.update(USERS), {"desk": "2"}),
    "by key": lambda s: s.execute(sa.update(User), [{"id": 100, "desk": "2"}]),
    "returning": lambda s: s.scalars(
        sa.update(User).values(desk="2").returning(User.id)
    ),
    "subquery": lambda s: s.execute(
        sa.update(User).where(~User.extensions.any()).values(desk="2")
    ),
    "repository": lambda s: BaseRepository(User, s).update(100, desk="2"),
}


@pytest.mark.parametrize("name", UPDATES)
async def test_an_update_tells_old_and_new(platform: Telephony, name: str) -> None:
    async with session_scope(platform.sessions) as session:
        await UPDATES[name](session)
    assert platform.told == [("update", "users", "[100]")]
    assert platform.changed == [{"desk": ("1.01", "2")}]
    assert await desk(platform) == "2"


DELETES: dict[str, Write] = {
    "model": lambda s: s.execute(sa.delete(User).where(User.id == 100)),
    "all": lambda s: s.execute(sa.delete(User)),
    "table": lambda s: s.execute(sa.delete(USERS).where(USERS.c.desk == "1.01")),
    "returning": lambda s: s.scalars(sa.delete(User).returning(User.email)),
    "repository": lambda s: BaseRepository(User, s).delete(100),
}


@pytest.mark.parametrize("name", DELETES)
async def test_a_delete_tells_what_is_lost(platform: Telephony, name: str) -> None:
    async with session_scope(platform.sessions) as session:
        await DELETES[name](session)
    assert platform.told == [("delete", "users", "[100]")]
    assert platform.changed[0]["email_address"] == ("ada", None)


async def test_a_write_that_joins_another_table_tells_each_row_once(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        numbers = [Extension(tenant=1, number=str(n), user_id=100) for n in range(3)]
        session.add_all(numbers)
        await session.flush()
        platform.changes.clear()
        update = sa.update(User).where(Extension.user_id == User.id).values(desk="2")
        options = {"synchronize_session": False}
        await session.execute(update, execution_options=options)
    assert platform.changed == [{"desk": ("1.01", "2")}]


async def test_what_comes_out_as_it_was_is_not_told(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        await session.execute(sa.update(User).values(desk="1.01"))
        await session.execute(sa.update(User).where(User.id == 1).values(desk="2"))
        await session.execute(sa.delete(User).where(sa.false()))
        await session.execute(sa.insert(Call), [{"id": 1, "seconds": 3}])
        await session.execute(sa.text("UPDATE calls SET seconds = 4"))
    assert platform.changes == []


async def test_a_result_still_counts_the_rows(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        result: Any = await session.execute(sa.update(User).values(desk="2"))
        assert result.rowcount == 1
        result = await session.execute(sa.delete(USERS))
        assert result.rowcount == 1


async def test_pending_changes_are_flushed_and_told_first(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 100)
        user.desk = "2"
        session.add(User(id=101, email="grace", desk="2"))
        update = sa.update(User).where(User.desk == "2").values(desk="3")
        await session.execute(update)
        assert user.desk == "3"
    assert platform.told == [
        ("update", "users", "[100]"),
        ("insert", "users", "[101]"),
        ("update", "users", "[100]"),
        ("update", "users", "[101]"),
    ]
    assert [change["desk"] for change in platform.changed] == [
        ("1.01", "2"),
        (None, "2"),
        ("2", "3"),
        ("2", "3"),
    ]


def upsert(session: AsyncSession) -> sa.Insert:
    insert = dialect_insert(session).values(id=100, email="eve")
    return insert.on_conflict_do_update(index_elements=["id"], set_={"desk": "9"})


def in_a_cte(_: AsyncSession) -> sa.Select[Any]:
    changed = sa.update(User).values(desk="9").returning(User.id).cte()
    return sa.select(changed.c.id)


def many_in_core(_: AsyncSession) -> sa.Update:
    return sa.update(USERS).where(USERS.c.id == sa.bindparam("key")).values(desk="9")


ddl: Any = sa.DDL
LIGHT: Any = sa.table("users", sa.column("id"), sa.column("desk"))
QUALIFIED = sa.table("Users", sa.column("desk"), schema="public")
COPY: Any = USERS.to_metadata(sa.MetaData())

REFUSED: dict[str, Callable[[AsyncSession], Any]] = {
    "upsert": upsert,
    "text": lambda _: sa.text("/* all */ update\nUSERS set desk = '9'"),
    "text with columns": lambda _: sa.text(
        "UPDATE users SET desk = '9' RETURNING id"
    ).columns(USERS.c.id),
    "cte": in_a_cte,
    "from_statement": lambda _: sa.select(User).from_statement(
        sa.update(User).values(desk="9").returning(User)
    ),
    "alias": lambda _: sa.update(aliased(User)).values(desk="9"),
    "lambda": lambda _: sa.lambda_stmt(lambda: sa.update(User).values(desk="9")),
    "or replace": lambda _: (
        sa.insert(User).prefix_with("OR REPLACE").values(id=100, email="eve")
    ),
    "primary key": lambda _: sa.update(User).values(id=101, desk="9"),
    "sa.table": lambda _: sa.update(LIGHT).values(desk="9"),
    "sa.table, inserting": lambda _: sa.insert(LIGHT).values(id=7),
    "sa.table, deleting": lambda _: sa.delete(LIGHT),
    "sa.table, with a schema": lambda _: sa.update(QUALIFIED).values(desk="9"),
    "alias of sa.table": lambda _: sa.delete(aliased(LIGHT)),
    "copy": lambda _: sa.update(COPY).values(desk="9"),
    "alias of a copy": lambda _: sa.update(COPY.alias()).values(desk="9"),
    "ddl": lambda _: ddl("UPDATE users SET desk = '9'"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_told_is_refused_and_not_made(
    platform: Telephony, name: str
) -> None:
    async with session_scope(platform.sessions) as session:
        statement = REFUSED[name](session)
        with pytest.raises(UnrecordedError):
            await session.execute(statement)
    assert platform.changes == []
    assert await desk(platform) == "1.01"


async def test_a_model_of_two_tables_is_refused(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        with pytest.raises(UnrecordedError, match="Employee has no table to itself"):
            await session.execute(sa.insert(Employee), [{"id": 1}])


@pytest.mark.parametrize("how", ["auto", "evaluate", "fetch"])
async def test_instances_that_the_session_holds_follow_the_statement(
    platform: Telephony, how: str
) -> None:
    options = {"synchronize_session": how}
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 100)
        update = sa.update(User).where(User.desk == "1.01").values(desk="2")
        await session.execute(update, execution_options=options)
        assert user.desk == "2"
        delete = sa.delete(User).where(User.desk == "2")
        await session.execute(delete, execution_options=options)
        assert user not in session
    assert [action for action, _, _ in platform.told] == ["update", "delete"]


async def test_a_list_of_parameters_updates_by_key_only(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        with pytest.raises(UnrecordedError, match="by key"):
            await session.execute(many_in_core(session), [{"key": 100}])
        missing = [{"id": 100, "desk": "9"}, {"id": 101, "desk": "9"}]
        with pytest.raises(UnrecordedError, match="lacks a row"):
            await session.execute(sa.update(User), missing)
    assert platform.changes == []
    assert await desk(platform) == "1.01"


async def test_more_rows_than_one_statement_may_find_are_refused(
    platform: Telephony,
) -> None:
    rows = [{"id": n, "email": str(n)} for n in range(1000, 1000 + MOST_ROWS)]
    async with platform.engine.begin() as connection:
        names = [{"id": row["id"], "email_address": row["email"]} for row in rows]
        await connection.execute(sa.insert(USERS), names)
    async with session_scope(platform.sessions) as session:
        with pytest.raises(UnrecordedError, match="more than 10,000 rows"):
            await session.execute(sa.update(User).values(desk="9"))
        await session.execute(sa.update(User).where(User.id != 100).values(desk="9"))
    assert len(platform.changes) == MOST_ROWS


async def test_a_key_of_two_columns_halves_the_number_of_rows(
    platform: Telephony,
) -> None:
    most = MOST_ROWS // 2
    numbers = [{"tenant": 1, "number": str(n), "user_id": 100} for n in range(most + 1)]
    async with platform.engine.begin() as connection:
        await connection.execute(sa.insert(Extension), numbers)
    update = sa.update(Extension).values(user_id=1)
    async with session_scope(platform.sessions) as session:
        await session.execute(sa.insert(User), [{"id": 1, "email": "grace"}])
        with pytest.raises(UnrecordedError, match="more than 5,000 rows"):
            await session.execute(update)
        platform.changes.clear()
        await session.execute(update.where(Extension.number != "0"))
    assert len(platform.changes) == most


async def test_an_instance_forgets_a_statement_that_was_taken_back(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 100)
        for write in (UPDATES["all"], DELETES["all"]):
            platform.broken = True
            with pytest.raises(DiskFullError):
                await write(session)
            platform.broken = False
            await session.refresh(user)
            assert user.desk == "1.01"
        user.desk = "2"  # the session would send no value that it takes for stored
    assert await desk(platform) == "2"
    assert platform.changed == [{"desk": ("1.01", "2")}]


@pytest.mark.backends("postgresql")
async def test_two_statements_that_find_their_rows_in_opposite_orders_do_not_deadlock(
    platform: Telephony,
) -> None:
    async with platform.engine.begin() as connection:
        # After user 100 in the table, and before it in the index.
        await connection.execute(sa.insert(USERS).values(id=1, email_address="grace"))
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    async def change(*settings: str) -> None:
        async with session_scope(platform.sessions) as session:
            for setting in settings:
                await session.execute(sa.text(f"SET LOCAL {setting} = off"))
            await session.execute(sa.update(User).where(User.id > 0).values(desk="2"))

    by_index = ("enable_seqscan", "enable_bitmapscan")
    by_table = ("enable_indexscan", "enable_bitmapscan")
    tasks: list[asyncio.Task[None]] = []
    async with asyncio.timeout(30), platform.engine.connect() as observer:
        async with platform.engine.begin() as holder:
            await holder.execute(sa.text("SELECT 1 FROM users WHERE id = 1 FOR UPDATE"))
            for settings in (by_index, by_table):
                tasks.append(asyncio.create_task(change(*settings)))
                while await observer.scalar(waiting) != len(tasks):
                    await observer.rollback()
        await asyncio.gather(*tasks)
    assert await desk(platform, 1) == "2"


@pytest.mark.parametrize("write", [INSERTS["list"], UPDATES["all"], DELETES["table"]])
async def test_a_listener_that_fails_takes_the_statement_back(
    platform: Telephony, write: Write
) -> None:
    async with session_scope(platform.sessions) as session:
        await session.execute(sa.insert(User), [{"id": 1, "email": "first"}])
        platform.broken = True
        with pytest.raises(DiskFullError):
            await write(session)
        platform.broken = False
    async with session_scope(platform.sessions) as session:
        query = sa.select(User.id, User.desk).order_by(User.id)
        assert (await session.execute(query)).all() == [(1, None), (100, "1.01")]


async def test_a_violated_constraint_leaves_the_session_usable(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        users = BaseRepository(User, session)
        with pytest.raises(ConflictError, match="User violates"):
            await users.create(email="ada")
        await users.create(id=7, email="grace")
    assert platform.told == [("insert", "users", "[7]")]


@pytest.mark.backends("postgresql")
async def test_a_row_that_comes_to_match_meanwhile_is_neither_changed_nor_missed(
    platform: Telephony,
) -> None:
    other = async_sessionmaker(platform.engine)

    async def hire() -> None:
        async with other.begin() as session:
            session.add(User(id=7, email="grace", desk="1"))

    def before(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("UPDATE users"):  # its rows have been found
            await_(hire())

    event.listen(platform.engine.sync_engine, "before_cursor_execute", before)
    async with session_scope(platform.sessions) as session:
        update = sa.update(User).where(User.email.like("%a%")).values(desk="2")
        await session.execute(update)
    assert platform.told == [("update", "users", "[100]")]
    assert [await desk(platform, key) for key in (100, 7)] == ["2", "1"]


@pytest.mark.backends("postgresql")
async def test_nobody_changes_a_row_between_its_reading_and_its_writing(
    platform: Telephony,
) -> None:
    locked = "SELECT 1 FROM users FOR UPDATE NOWAIT"

    async def try_to_lock() -> None:
        async with platform.engine.begin() as connection:
            await connection.execute(sa.text(locked))

    def before(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("UPDATE users"):
            with pytest.raises(sa.exc.DBAPIError, match="could not obtain lock"):
                await_(try_to_lock())

    event.listen(platform.engine.sync_engine, "before_cursor_execute", before)
    async with session_scope(platform.sessions) as session:
        await session.execute(sa.update(User).values(desk="2"))
    async with session_scope(platform.sessions) as session:
        (await session.get_one(User, 100)).desk = "3"
    assert platform.changed == [{"desk": ("1.01", "2")}, {"desk": ("2", "3")}]


async def test_a_statement_costs_two_selects_whatever_the_number_of_rows(
    platform: Telephony, proof: Proof
) -> None:
    async with session_scope(platform.sessions) as session:
        await session.execute(
            sa.insert(User), [{"id": n, "email": str(n)} for n in range(20)]
        )
        with count_sql(platform.engine) as seen:
            await session.execute(sa.update(User).values(desk="2"))
        assert (seen.total, seen.savepoints) == (3, 1)
        proof.cost("a bulk UPDATE of 21 rows", selects=2, savepoints=1)
        with count_sql(platform.engine) as seen:
            await session.execute(sa.insert(User), [{"id": 50, "email": "50"}])
        assert (seen.total, seen.savepoints) == (2, 1)
        proof.cost("an INSERT", selects=1, savepoints=1)
        with count_sql(platform.engine) as seen:
            await session.scalars(sa.select(User))
        assert (seen.total, seen.savepoints) == (1, 0)
        proof.cost("a SELECT", selects=1, savepoints=0)


async def test_the_naive_version_misses_rows_and_tells_no_old_values(
    platform: Telephony, proof: Proof
) -> None:
    told: list[object] = []

    class NaiveSession(Session):
        """A class for its listener."""

    statement_changes_naive.tell_updates(NaiveSession, told.append)
    sessions = async_sessionmaker(platform.engine, sync_session_class=NaiveSession)
    async with sessions.begin() as session:
        await UPDATES["no longer matching"](session)
    assert await desk(platform) == "2"
    assert told == []
    proof.breaks("The UPDATE changes what its condition is on.", "No row is told.")

    async with sessions.begin() as session:
        await session.execute(sa.update(USERS).values(desk="3"))
    assert await desk(platform) == "3"
    assert told == []
    proof.breaks("The UPDATE is of the table, not of the model.", "No row is told.")
