"""A flush tells what it did to each row, as the database has it before and after."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Mapper,
    Session,
    mapped_column,
    relationship,
    selectinload,
)
from sqlalchemy.util.concurrency import await_

from snippets.database import row_changes, row_changes_naive
from snippets.database.async_session import session_scope
from snippets.database.row_changes import AuditedMixin, tell_flushes
from snippets.database.row_diff import MASK, UnrecordedError
from tests.support.audited_telephony import (
    Call,
    Device,
    DiskFullError,
    Employee,
    Extension,
    Line,
    OtherBase,
    Telephony,
    Trunk,
    User,
    telephony,
)
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from catalogue.plugin import Proof


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Telephony]:
    """A platform that is told of flushes."""
    async with telephony(database_url, tell_flushes) as platform:
        yield platform


async def ada(session: AsyncSession) -> User:
    return await session.get_one(User, 100)


async def test_an_insert_tells_the_key_that_the_server_gave(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        grace = User(email="grace", credit=Decimal("1.5"))
        session.add(grace)
    assert platform.told == [("insert", "users", f"[{grace.id}]")]
    assert platform.changed == [
        {
            "id": (None, grace.id),
            "email_address": (None, "grace"),
            "credit": (None, "1.50"),
        }
    ]


async def test_an_update_tells_the_old_and_new_values_of_what_changed(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        (await ada(session)).desk = "2.17"
    assert platform.told == [("update", "users", "[100]")]
    assert platform.changed == [{"desk": ("1.01", "2.17")}]


async def test_a_deletion_tells_what_is_lost(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        await session.delete(await ada(session))
    assert platform.told == [("delete", "users", "[100]")]
    assert platform.changed == [
        {
            "id": (100, None),
            "email_address": ("ada", None),
            "desk": ("1.01", None),
            "pin": (MASK, None),
            "settings": ({"tone": "a"}, None),
        }
    ]


async def test_what_comes_out_as_it_was_is_not_told(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        user = await ada(session)
        user.desk = "elsewhere"
        user.desk = "1.01"
    async with session_scope(platform.sessions) as session:
        user = await ada(session)
        await session.execute(sa.text("UPDATE users SET desk = '3'"))
        user.desk = "3"  # which the session takes for a change
        await session.flush()
    assert platform.changes == []


async def test_the_old_value_is_the_databases_and_not_the_sessions(
    platform: Telephony,
) -> None:
    async with platform.sessions() as session:
        user = await ada(session)
        await session.commit()
        async with platform.engine.begin() as other:
            await other.execute(sa.text("UPDATE users SET desk = '3'"))
        user.desk = "4"
        await session.commit()
    assert platform.changed == [{"desk": ("3", "4")}]


async def test_an_old_value_that_was_never_loaded_is_told(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        (await ada(session)).greeting = "hello"
    async with session_scope(platform.sessions) as session:
        (await ada(session)).greeting = "welcome"
    assert platform.changed == [
        {"greeting": (None, "hello")},
        {"greeting": ("hello", "welcome")},
    ]


async def test_json_that_is_changed_in_place_keeps_its_old_value(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await ada(session)
        assert user.settings is not None
        user.settings["tone"] = "b"
    assert platform.changed == [{"settings": ({"tone": "a"}, {"tone": "b"})}]


async def test_a_hybrid_and_an_expression_are_told_by_the_values_stored(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await ada(session)
        user.place = "9"
        values: Any = user
        values.credit = sa.literal(1) + sa.literal(1)
    assert platform.changed == [{"desk": ("1.01", "9"), "credit": (None, "2.00")}]


async def test_a_secret_is_not_told_but_its_change_is(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        (await ada(session)).pin = "9876"
    assert "9876" not in repr(platform.changes)
    assert "1234" not in repr(platform.changes)
    assert platform.changed == [{"pin": (MASK, MASK)}]


async def test_cascades_orphans_and_keys_that_a_flush_sets_are_told(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        device = Device(id=1)
        grace = User(
            id=7,
            email="grace",
            extensions=[
                Extension(tenant=1, number="1001", devices=[device]),
                Extension(tenant=1, number="1002"),
                Extension(tenant=1, number="1003"),
            ],
        )
        session.add(grace)
    assert platform.told == [
        ("insert", "users", "[7]"),
        *(("insert", "extensions", f'[1,"100{n}"]') for n in (1, 2, 3)),
        ("insert", "devices", "[1]"),
    ]
    platform.changes.clear()

    async with session_scope(platform.sessions) as session:
        children = selectinload(User.extensions).selectinload(Extension.devices)
        grace = await session.get_one(User, 7, options=[children])
        grace.extensions.pop()  # an orphan, of which the session learns in the flush
    assert platform.told == [("delete", "extensions", '[1,"1003"]')]
    platform.changes.clear()

    async with session_scope(platform.sessions) as session:
        grace = await session.get_one(User, 7, options=[children])
        # The device loses its extension; nobody said that it is to change.
        await session.delete(grace)
    assert set(platform.told) == {
        ("update", "devices", "[1]"),
        ("delete", "extensions", '[1,"1001"]'),
        ("delete", "extensions", '[1,"1002"]'),
        ("delete", "users", "[7]"),
    }
    assert {"tenant": (1, None), "number": ("1001", None)} in platform.changed


async def test_a_row_in_the_place_of_a_deleted_one_is_an_update(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await session.delete(await ada(session))
        session.add(User(id=100, email="grace", desk="1.01", pin="1234"))
    assert platform.told == [("update", "users", "[100]")]
    assert platform.changed == [{"email_address": ("ada", "grace")}]


async def test_a_kind_of_a_model_in_the_same_table_is_told(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        session.add_all([Line(id=1), Trunk(id=2)])
    async with session_scope(platform.sessions) as session:
        (await session.get_one(Line, 1)).label = "one"
        (await session.get_one(Line, 2)).label = "two"
    assert [change[::2] for change in platform.told] == [
        ("insert", "[1]"),
        ("insert", "[2]"),
        ("update", "[1]"),
        ("update", "[2]"),
    ]


async def test_a_model_that_is_not_audited_costs_and_tells_nothing(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        with count_sql(platform.engine) as seen:
            session.add(Call(id=1, seconds=3))
            await session.flush()
    assert seen.total == 1
    assert platform.changes == []


async def test_sessions_of_another_factory_tell_nothing(platform: Telephony) -> None:
    async with async_sessionmaker(platform.engine).begin() as session:
        session.add(User(id=7, email="grace"))
        (await ada(session)).id = 101  # which those that tell would refuse
        with count_sql(platform.engine) as seen:
            await session.flush()
    assert seen.total == 1
    assert platform.changes == []


async def test_a_flush_reads_a_table_twice_however_many_rows_it_changes(
    platform: Telephony, proof: Proof
) -> None:
    async with session_scope(platform.sessions) as session:
        session.add_all(User(id=n, email=str(n)) for n in range(50))
    async with session_scope(platform.sessions) as session:
        users = (await session.scalars(sa.select(User))).all()
        for user in users:
            user.desk = "1"
        with count_sql(platform.engine) as seen:
            await session.flush()
    assert len(users) == 51
    selects = [text for text in seen.texts if text.startswith("SELECT")]
    assert len(selects) == 2
    assert seen.total == 3
    proof.cost(
        "a flush that updates 51 rows of a model", selects=2, statements=seen.total
    )


async def test_more_rows_than_are_read_at_once_are_all_told(
    platform: Telephony, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_changes, "READ_AT_ONCE", 10)
    async with session_scope(platform.sessions) as session:
        session.add_all(User(id=n, email=str(n)) for n in range(1000, 1025))
    assert len(platform.told) == 25
    assert platform.told == sorted(platform.told, key=lambda told: int(told[2][1:-1]))


async def test_a_row_is_looked_at_once_however_many_classes_tell(
    platform: Telephony, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []

    def look(_: object, __: object, row: object) -> None:
        looks.append(row)

    monkeypatch.setattr(row_changes, "_before_row", look)
    for name in ("One", "Two"):
        tell_flushes(type(name, (Session,), {}), platform.record)
    async with session_scope(platform.sessions) as session:
        session.add(User(id=1000, email="grace"))
    for name in ("before_insert", "before_update", "before_delete"):
        sa.event.remove(Mapper, name, look)
    assert len(looks) == 1


async def test_a_listener_that_fails_takes_the_flush_back(platform: Telephony) -> None:
    platform.broken = True
    with pytest.raises(DiskFullError):
        async with session_scope(platform.sessions) as session:
            (await ada(session)).desk = "2.17"
    platform.broken = False
    async with session_scope(platform.sessions) as session:
        assert (await ada(session)).desk == "1.01"


async def test_a_failed_flush_leaves_nothing_behind_for_the_next(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await ada(session)
        savepoint = await session.begin_nested()
        user.desk = "2"
        session.add(User(id=7, email="ada"))
        with pytest.raises(sa.exc.IntegrityError):
            await session.flush()
        await savepoint.rollback()
        await session.refresh(user)
        user.desk = "3"
    assert platform.changed == [{"desk": ("1.01", "3")}]


async def test_a_primary_key_may_not_change(platform: Telephony) -> None:
    with pytest.raises(UnrecordedError, match="primary key of users"):
        async with session_scope(platform.sessions) as session:
            (await ada(session)).id = 101
    assert platform.changes == []


async def test_a_model_of_two_tables_is_refused(platform: Telephony) -> None:
    await create_tables(platform.engine, OtherBase.metadata)
    with pytest.raises(UnrecordedError, match="Employee has no table to itself"):
        async with session_scope(platform.sessions) as session:
            session.add(Employee(id=1))


KEYS: dict[str, tuple[Any, object]] = {
    "a number as text": (sa.Integer(), "7"),
    "a padded text": (sa.CHAR(5), "ab"),
    "a rounded number": (sa.Numeric(10, 2), Decimal("1.005")),
    "a short float": (sa.REAL(), 0.1),
    "an aware time": (sa.DateTime(timezone=True), datetime(2026, 11, 22, tzinfo=UTC)),
}
FOUND_AGAIN = {
    ("sqlite", "a padded text"),
    ("sqlite", "a short float"),
    ("postgresql", "an aware time"),
}


@pytest.mark.parametrize("name", KEYS)
async def test_a_new_row_is_told_or_refused_whatever_form_its_key_has(
    platform: Telephony, name: str, database_backend: str
) -> None:
    kind, key = KEYS[name]

    class Local(DeclarativeBase):
        """A base of its own."""

    class Room(AuditedMixin, Local):
        """A room with such a key."""

        __table__ = sa.Table(
            "rooms", Local.metadata, sa.Column("id", kind, primary_key=True)
        )

    async with platform.engine.begin() as connection:
        await connection.run_sync(Local.metadata.create_all)
    async with platform.sessions() as session:
        session.add(Room(id=key))
        if (database_backend, name) in FOUND_AGAIN:
            await session.flush()
            assert [action for action, *_ in platform.told] == ["insert"]
            return
        # PostgreSQL's driver takes no text for a number.
        with pytest.raises((UnrecordedError, sa.exc.DBAPIError)):
            await session.flush()
    async with platform.engine.connect() as connection:
        assert (await connection.execute(sa.select(Room.__table__))).all() == []


async def test_a_relationship_that_writes_without_an_event_is_refused(
    platform: Telephony,
) -> None:
    class Local(DeclarativeBase):
        """A base of its own."""

    class Membership(AuditedMixin, Local):
        """A user's place in a group: audited, and a secondary table."""

        __tablename__ = "memberships"

        group: Mapped[int] = mapped_column(sa.ForeignKey("groups.id"), primary_key=True)
        phone: Mapped[int] = mapped_column(sa.ForeignKey("phones.id"), primary_key=True)

    class Phone(AuditedMixin, Local):
        """A telephone, which is audited."""

        __tablename__ = "phones"

        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int | None] = mapped_column(sa.ForeignKey("owners.id"))

    class Owner(Local):
        """Somebody with telephones, who is not audited."""

        __tablename__ = "owners"

        id: Mapped[int] = mapped_column(primary_key=True)
        phones: Mapped[list[Phone]] = relationship(post_update=True)

    class Group(Local):
        """Telephones that ring at once."""

        __tablename__ = "groups"

        id: Mapped[int] = mapped_column(primary_key=True)
        phones: Mapped[list[Phone]] = relationship(secondary="memberships")

    class Hunt(Local):
        """The same group; it only reads its telephones."""

        __table__ = Local.metadata.tables["groups"]

        phones: Mapped[list[Phone]] = relationship(
            secondary="memberships", viewonly=True
        )

    async with platform.engine.begin() as connection:
        await connection.run_sync(Local.metadata.create_all)
    for parent in (Owner(id=1), Group(id=1)):
        async with platform.sessions() as session:
            session.add(Phone(id=1))
            session.add(parent)
            with pytest.raises(UnrecordedError, match=r"\.phones writes rows"):
                await session.flush()
    async with session_scope(platform.sessions) as session:
        session.add_all([Hunt(id=1), Phone(id=1)])
        await session.flush()
        session.add(Membership(group=1, phone=1))
    assert [table for _, table, _ in platform.told] == ["phones", "memberships"]


@pytest.mark.backends("postgresql")
async def test_nobody_changes_a_row_between_its_reading_and_its_writing(
    platform: Telephony,
) -> None:
    tried: list[str] = []

    async def try_to_lock() -> None:
        async with platform.engine.begin() as connection:
            await connection.execute(sa.text("SELECT 1 FROM users FOR UPDATE NOWAIT"))

    def before(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("UPDATE users"):
            with pytest.raises(sa.exc.DBAPIError, match="could not obtain lock"):
                await_(try_to_lock())
            tried.append(statement)

    event.listen(platform.engine.sync_engine, "before_cursor_execute", before)
    async with session_scope(platform.sessions) as session:
        (await ada(session)).desk = "3"
    assert len(tried) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda session: session.bulk_save_objects([User(id=7, email="x")]),
        lambda session: session.bulk_insert_mappings(User, [{"id": 7, "email": "x"}]),
        lambda session: session.bulk_update_mappings(User, [{"id": 100, "desk": "x"}]),
    ],
)
async def test_bulk_methods_which_pass_no_event_are_refused(
    platform: Telephony, write: Callable[[Session], None]
) -> None:
    with pytest.raises(InvalidRequestError, match="send a statement"):
        async with session_scope(platform.sessions) as session:
            await session.run_sync(write)


async def test_a_value_that_json_cannot_hold_takes_the_flush_back(
    platform: Telephony,
) -> None:
    with pytest.raises(UnrecordedError, match=r"users\.settings"):
        async with session_scope(platform.sessions) as session:
            (await ada(session)).settings = {"tone": "\ud800"}
    async with session_scope(platform.sessions) as session:
        assert (await ada(session)).settings == {"tone": "a"}


async def test_the_naive_version_loses_old_values_and_tells_secrets(
    platform: Telephony, proof: Proof
) -> None:
    told: list[dict[str, object]] = []

    class NaiveSession(Session):
        """A class for its listener."""

    row_changes_naive.tell_flushes(NaiveSession, lambda _, values: told.append(values))
    sessions = async_sessionmaker(platform.engine, sync_session_class=NaiveSession)
    async with sessions.begin() as session:
        user = await ada(session)
        assert user.settings is not None
        user.settings["tone"] = "b"
    assert told.pop() == {"settings": [{"tone": "b"}]}
    proof.breaks("JSON is changed in place.", "Its old value is not told.")

    async with sessions.begin() as session:
        (await ada(session)).greeting = "hello"
    assert told.pop() == {"greeting": ["hello"]}
    proof.breaks(
        "A deferred column is set that was not loaded.", "Its old value is not told."
    )

    async with sessions.begin() as session:
        (await ada(session)).pin = "9876"
    assert told.pop() == {"pin": ["1234", "9876"]}

    async with sessions.begin() as session:
        session.add(User(id=7, email="grace"))
        await session.delete(await ada(session))
    assert told == []
    proof.breaks("A row is added and another deleted.", "Nothing is told.")
