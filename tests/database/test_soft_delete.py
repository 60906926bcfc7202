"""Deleting keeps the row, its first mark and its place, until it is purged."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import TypeAlias, assert_type

import pytest
import sqlalchemy as sa
from sqlalchemy import event, func, select
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    load_only,
    mapped_column,
    selectinload,
)

from catalogue.plugin import Proof
from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.conflict import ConflictError
from snippets.database.soft_delete import (
    include_deleted,
    install_soft_delete,
    only_deleted,
    purge,
    restore,
    soft_delete,
)
from snippets.database.soft_delete_naive import NaiveRepository, NaiveSoftDeleteMixin
from tests.support.counters import count_sql
from tests.support.databases import create_tables
from tests.support.soft_delete import (
    Extension,
    Telephony,
    User,
    Voicemail,
    telephony,
)

Operation: TypeAlias = Callable[[AsyncSession], Awaitable[object]]


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Telephony]:
    """A platform with two users."""
    async with telephony(database_url) as platform:
        async with session_scope(platform.sessions) as session:
            session.add(User(id=1, email="ada@example.com"))
            session.add(User(id=2, email="grace@example.com"))
        yield platform


async def _marks(session: AsyncSession, key: int) -> tuple[datetime | None, str | None]:
    """Return when, in UTC, and by whom a user was deleted."""
    query = select(User.deleted_at, User.deleted_by).where(User.id == key)
    row = (await session.execute(query, execution_options=include_deleted)).one()
    return row.deleted_at and row.deleted_at.replace(tzinfo=UTC), row.deleted_by


async def _delete(platform: Telephony, key: int) -> None:
    """Delete a user in a unit of work of its own."""
    async with session_scope(platform.sessions) as session:
        assert await soft_delete(session, User, key)


# What a deletion leaves behind


async def test_a_deletion_keeps_the_row_with_its_time_and_its_actor(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        assert await soft_delete(session, User, 1)
    async with session_scope(platform.sessions) as session:
        assert await session.get(User, 1) is None
        user = await session.get(User, 1, execution_options=include_deleted)
        assert user is not None
        assert user.email == "ada@example.com"
        assert await _marks(session, 1) == (platform.clock.now, "ada")


async def test_a_second_deletion_returns_false_and_keeps_the_first_marks(
    platform: Telephony,
) -> None:
    first = platform.clock.now
    async with session_scope(platform.sessions) as session:
        assert await soft_delete(session, User, 1) is True
    platform.clock.tick()
    platform.actor = "grace"
    async with session_scope(platform.sessions) as session:
        assert await soft_delete(session, User, 1) is False
        assert await _marks(session, 1) == (first, "ada")


async def test_each_operation_returns_what_its_type_says(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        assert_type(await session.get(User, 1), User | None)
        assert_type(await soft_delete(session, User, 1), bool)
        assert_type(await restore(session, User, 1), bool)
        assert_type(await purge(session, User), int)
        assert_type((await session.scalars(select(User))).all(), Sequence[User])


async def test_deleting_what_is_not_there_returns_false(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        assert await soft_delete(session, User, 99) is False
        assert await restore(session, User, 99) is False
        assert await purge(session, User, User.id == 99) == 0


async def test_the_clock_may_be_in_any_zone(platform: Telephony) -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=timezone(timedelta(hours=2)))
    platform.clock.now = noon
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
    async with session_scope(platform.sessions) as session:
        assert await _marks(session, 1) == (
            datetime(2026, 11, 22, 10, tzinfo=UTC),
            "ada",
        )


async def test_the_time_of_a_deletion_is_read_back_in_utc(
    platform: Telephony, database_backend: str, proof: Proof
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 1)
        await session.delete(user)
        await session.flush()
        assert user.deleted_at == platform.clock.now
    async with session_scope(platform.sessions) as session:
        when = await session.scalar(
            select(User.deleted_at), execution_options=only_deleted
        )
    aware = {"sqlite": False, "postgresql": True}[database_backend]
    expected = platform.clock.now if aware else platform.clock.now.replace(tzinfo=None)
    assert when == expected
    proof.differs(
        "The time of a deletion is read back",
        "with its zone, UTC" if aware else "without a zone, in UTC",
    )


async def test_the_default_clock_tells_the_time_in_utc(database_url: str) -> None:
    async with telephony(database_url) as platform:
        install_soft_delete(
            sessions := create_engine_and_sessions(database_url)[1],
            actor=lambda: None,
        )
        before = datetime.now(UTC)
        async with session_scope(sessions) as session:
            session.add(User(id=1, email="ada@example.com"))
            await session.flush()
            await soft_delete(session, User, 1)
            when, who = await _marks(session, 1)
        assert when is not None
        assert before <= when <= datetime.now(UTC)
        assert who is None
        await sessions.kw["bind"].dispose()
        assert platform.engine is not sessions.kw["bind"]


# The identity map


async def _by_key(session: AsyncSession) -> None:
    await soft_delete(session, User, 1)


async def _by_instance(session: AsyncSession) -> None:
    await session.delete(await session.get_one(User, 1))
    await session.flush()


async def _by_statement(session: AsyncSession) -> None:
    await session.execute(sa.delete(User).where(User.id == 1))


async def _by_table(session: AsyncSession) -> None:
    table = User.metadata.tables["users"]
    await session.execute(sa.delete(table).where(table.c.id == 1))


DELETIONS = [_by_key, _by_instance, _by_statement, _by_table]


@pytest.mark.parametrize("delete", DELETIONS)
async def test_a_row_deleted_in_a_session_is_not_returned_by_its_next_get(
    platform: Telephony, delete: Operation
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 1)
        await delete(session)
        assert await session.get(User, 1) is None
        assert user.deleted_at == platform.clock.now
        assert user.deleted_by == "ada"
        found = await session.get(User, 1, execution_options=include_deleted)
        assert found is user


@pytest.mark.parametrize("delete", DELETIONS)
async def test_a_rollback_undeletes_what_the_session_holds(
    platform: Telephony, delete: Operation
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 1)
        savepoint = await session.begin_nested()
        await delete(session)
        await savepoint.rollback()
        assert await session.get(User, 1) is user
        assert await _marks(session, 1) == (None, None)
    async with session_scope(platform.sessions) as session:
        assert await session.get(User, 1) is not None


@pytest.mark.parametrize("flushed", [True, False])
async def test_a_row_can_be_deleted_in_the_session_that_creates_it(
    platform: Telephony, *, flushed: bool
) -> None:
    async with session_scope(platform.sessions) as session:
        user = User(id=3, email="new@example.com")
        session.add(user)
        if flushed:
            await session.flush()
        assert await soft_delete(session, User, 3)
        assert user.deleted_at == platform.clock.now
        assert user.deleted_by == "ada"
        assert await session.get(User, 3) is None


async def test_a_new_row_is_got_from_the_identity_map(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        user = User(id=3, email="new@example.com")
        session.add(user)
        await session.flush()
        with count_sql(platform.engine) as statements:
            assert await session.get(User, 3) is user
        assert statements.total == 0


async def test_a_row_whose_mark_is_not_loaded_is_looked_up(
    platform: Telephony,
) -> None:
    async with platform.sessions() as session:
        query = select(User).options(load_only(User.email)).where(User.id == 1)
        user = (await session.scalars(query)).one()
        assert await session.get(User, 1) is user
        session.expunge(user)
        user = (await session.scalars(query)).one()
        deleted = await session.get(User, 1, execution_options=only_deleted)
        assert deleted is None
        await session.commit()
        await _delete(platform, 1)
        assert await session.get(User, 1) is None
        assert user in session


async def test_a_deleted_row_can_be_deleted_by_instance_again_without_a_new_mark(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 1)
        first = platform.clock.now
        await session.delete(user)
        await session.flush()
        platform.clock.tick()
        await session.delete(user)
        await session.flush()
        assert user.deleted_at == first
        assert await _marks(session, 1) == (first, "ada")


# A deleted row does not change


async def test_an_instance_of_a_deleted_row_is_not_changed(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
    async with platform.sessions() as session:
        user = await session.get(User, 1, execution_options=include_deleted)
        assert user is not None
        user.name = "Ada"
        with pytest.raises(InvalidRequestError, match="restore it"):
            await session.flush()
    async with session_scope(platform.sessions) as session:
        user = await session.get(User, 1, execution_options=include_deleted)
        assert user is not None
        assert user.name == ""


async def test_a_pending_change_of_a_row_is_kept_when_it_is_deleted(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 1)
        user.name = "bye"
        await session.delete(user)
    async with session_scope(platform.sessions) as session:
        assert await session.get(User, 1) is None
        names = select(User.name).where(User.id == 1)
        assert await session.scalar(names, execution_options=only_deleted) == "bye"


async def test_deleting_a_deleted_row_again_does_not_change_it(
    platform: Telephony,
) -> None:
    await _delete(platform, 1)
    async with platform.sessions() as session:
        user = await session.get_one(User, 1, execution_options=include_deleted)
        user.name = "Ada"
        await session.delete(user)
        with pytest.raises(InvalidRequestError, match="restore it"):
            await session.flush()


@pytest.mark.parametrize("when", [None, datetime(2026, 11, 22, tzinfo=UTC)])
async def test_the_marks_are_not_set_by_hand(
    platform: Telephony, when: datetime | None
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 2)
    async with platform.sessions() as session:
        key = 1 if when else 2
        user = await session.get(User, key, execution_options=include_deleted)
        assert user is not None
        user.deleted_at = when
        with pytest.raises(InvalidRequestError, match="restore it"):
            await session.flush()


async def test_a_deleted_row_changes_by_a_statement_that_asks_for_it(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        anonymous = sa.update(User).where(User.id == 1).values(email="")
        await session.execute(anonymous, execution_options=only_deleted)
    async with session_scope(platform.sessions) as session:
        user = await session.get(User, 1, execution_options=include_deleted)
        assert user is not None
        assert user.email == ""


# Uniqueness and restoring


async def test_what_a_deleted_row_had_to_itself_can_be_taken_again(
    platform: Telephony,
) -> None:
    for key in (1, 11, 12):
        async with session_scope(platform.sessions) as session:
            if key != 1:
                session.add(User(id=key, email="ada@example.com"))
                await session.flush()
            assert await soft_delete(session, User, key)
    async with session_scope(platform.sessions) as session:
        same = select(func.count()).where(User.email == "ada@example.com")
        assert await session.scalar(same, execution_options=include_deleted) == 3


async def test_it_can_be_taken_again_in_the_same_flush(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        await session.delete(await session.get_one(User, 1))
        session.add(User(id=3, email="ada@example.com"))
    async with session_scope(platform.sessions) as session:
        emails = select(User.id).where(User.email == "ada@example.com")
        assert (await session.scalars(emails)).all() == [3]


async def test_two_live_rows_conflict(platform: Telephony) -> None:
    with pytest.raises(IntegrityError):
        async with session_scope(platform.sessions) as session:
            session.add(User(id=3, email="ada@example.com"))


async def test_a_restored_row_is_as_it_was_before(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 1)
        await soft_delete(session, User, 1)
        assert await restore(session, User, 1) is True
        assert await session.get(User, 1) is user
        assert (user.deleted_at, user.deleted_by) == (None, None)
    async with session_scope(platform.sessions) as session:
        assert await _marks(session, 1) == (None, None)
        assert await restore(session, User, 1) is False


@pytest.mark.parametrize(
    "meanwhile", ["DELETE FROM users", "UPDATE users SET deleted_at = NULL"]
)
async def test_a_row_that_is_gone_or_restored_meanwhile_is_not_restored(
    platform: Telephony, meanwhile: str
) -> None:
    await _delete(platform, 1)

    def before(connection: sa.Connection, _: object, sql: str, *__: object) -> None:
        if sql.startswith("UPDATE users SET deleted_at="):
            connection.exec_driver_sql(f"{meanwhile} WHERE id = 1")

    event.listen(platform.engine.sync_engine, "before_cursor_execute", before)
    async with session_scope(platform.sessions) as session:
        assert await restore(session, User, 1) is False
        session.add(User(id=4, email="the session goes on"))


async def test_a_restored_row_can_be_deleted_again(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        await restore(session, User, 1)
        platform.clock.tick()
        assert await soft_delete(session, User, 1) is True
        assert await _marks(session, 1) == (platform.clock.now, "ada")


async def test_restoring_beside_a_live_duplicate_is_a_conflict_that_changes_nothing(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        session.add(User(id=3, email="ada@example.com"))
        await session.flush()
        with pytest.raises(ConflictError) as caught:
            await restore(session, User, 1)
        assert caught.value.constraint == "uq_users_email"
        session.add(User(id=4, email="the session goes on"))
    async with session_scope(platform.sessions) as session:
        assert (await session.scalars(select(User.id).order_by(User.id))).all() == [
            2,
            3,
            4,
        ]
        assert await _marks(session, 1) == (platform.clock.now, "ada")


# Removing for good


async def test_purge_removes_only_deleted_rows(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        assert await purge(session, User) == 1
        everyone = select(User.id)
        left = await session.scalars(everyone, execution_options=include_deleted)
        assert left.all() == [2]


async def test_purge_removes_what_was_deleted_before_a_time(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        platform.clock.tick()
        await soft_delete(session, User, 2)
        assert await purge(session, User, User.deleted_at < platform.clock.now) == 1
        left = await session.scalars(select(User.id), execution_options=only_deleted)
        assert left.all() == [2]


async def test_a_purged_row_is_gone_from_the_session_and_its_key_is_free(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 1)
        await soft_delete(session, User, 1)
        await purge(session, User, User.id == 1)
        assert user not in session
        assert await session.get(User, 1, execution_options=include_deleted) is None
        assert await restore(session, User, 1) is False
        session.add(User(id=1, email="new@example.com"))
    async with session_scope(platform.sessions) as session:
        assert (await session.get_one(User, 1)).email == "new@example.com"


async def test_purging_a_row_that_the_session_holds_as_live_is_no_orphan(
    platform: Telephony,
) -> None:
    async with platform.sessions() as session:
        held = await session.get_one(User, 1)
        await session.commit()
        await _delete(platform, 1)
        others = select(User.id).where(User.id == 1)
        assert await purge(session, User, User.id.in_(others)) == 1
        assert held not in session


# Installing


async def test_only_the_sessions_that_were_installed_delete_softly(
    platform: Telephony,
) -> None:
    async with AsyncSession(platform.engine) as session:
        await _delete(platform, 1)
        assert await session.get(User, 1) is not None
        await session.delete(await session.get_one(User, 2))
        await session.commit()
    async with session_scope(platform.sessions) as session:
        everyone = select(User.id)
        left = await session.scalars(everyone, execution_options=include_deleted)
        assert left.all() == [1]


async def test_soft_delete_refuses_a_session_that_would_delete_for_good(
    platform: Telephony,
) -> None:
    async with AsyncSession(platform.engine) as session:
        with pytest.raises(TypeError, match="install_soft_delete"):
            await soft_delete(session, User, 1)
        assert await session.get(User, 1) is not None


async def test_the_hooks_add_to_those_that_are_there(database_url: str) -> None:
    seen: list[str] = []

    class Watched(Session):
        """A session with a listener of its own."""

    event.listen(Watched, "after_flush", lambda *_: seen.append("before"))
    async with telephony(database_url) as platform:
        platform.sessions.configure(sync_session_class=Watched, info={"desk": 1})
        install_soft_delete(platform.sessions, actor=lambda: "ada")
        installed = platform.sessions.kw["sync_session_class"]
        event.listen(installed, "after_flush", lambda *_: seen.append("after"))
        async with platform.sessions.begin() as session:
            session.add(User(id=1, email="ada@example.com"))
            await session.flush()
            assert await soft_delete(session, User, 1)
            assert session.info["desk"] == 1
        assert issubclass(installed, Watched)
        assert seen == ["before", "after"]


# Costs


async def test_a_deletion_is_one_update_and_one_more_for_each_cascade(
    platform: Telephony, proof: Proof
) -> None:
    async with session_scope(platform.sessions) as session:
        session.add(Extension(id=1, user_id=1, number="1001"))
        session.add_all(Voicemail(id=n, extension_id=1) for n in (1, 2))
    operations: list[tuple[str, int, int, Operation]] = [
        ("delete", 1, 1, lambda session: soft_delete(session, Voicemail, 1)),
        ("restore", 2, 1, lambda session: restore(session, Voicemail, 1)),
        ("delete with two levels of children", 4, 3, lambda s: soft_delete(s, User, 1)),
        ("restore with two levels of children", 4, 3, lambda s: restore(s, User, 1)),
        ("purge", 1, 0, lambda session: purge(session, Voicemail)),
    ]
    for operation, total, updates, act in operations:
        async with session_scope(platform.sessions) as session:
            with count_sql(platform.engine) as statements:
                await act(session)
        assert statements.total == total
        assert sum(text.startswith("UPDATE") for text in statements.texts) == updates
        proof.cost(operation, statements=total)


async def test_deleting_an_instance_is_one_update(
    platform: Telephony, proof: Proof
) -> None:
    async with session_scope(platform.sessions) as session:
        session.add(Extension(id=1, user_id=1, number="1001"))
        session.add(Voicemail(id=1, extension_id=1))
    async with session_scope(platform.sessions) as session:
        voicemail = await session.get_one(Voicemail, 1)
        with count_sql(platform.engine) as statements:
            await session.delete(voicemail)
            await session.flush()
        assert statements.total == 1
        assert statements.texts[0].startswith("UPDATE voicemails")
        proof.cost("session.delete and flush", statements=1)


READS: dict[str, Operation] = {
    "get": lambda session: session.get(User, 1),
    "select": lambda session: session.scalars(select(User)),
    "count": lambda session: session.scalar(select(func.count()).select_from(User)),
    "joined load": lambda session: session.scalars(
        select(Extension).options(joinedload(Extension.user))
    ),
    "selectin load": lambda session: session.scalars(
        select(User).options(selectinload(User.extensions))
    ),
    "table": lambda session: session.execute(select(User.__table__)),
}


async def test_a_read_costs_no_statement_more(
    platform: Telephony, proof: Proof
) -> None:
    counts: dict[str, tuple[int, int]] = {}
    for operation, read in READS.items():
        async with AsyncSession(platform.engine) as session:
            with count_sql(platform.engine) as plain:
                await read(session)
        async with session_scope(platform.sessions) as session:
            with count_sql(platform.engine) as filtered:
                await read(session)
        counts[operation] = plain.total, filtered.total
    assert all(plain == filtered > 0 for plain, filtered in counts.values())
    proof.cost("get", statements=counts["get"][1])
    proof.cost("select", statements=counts["select"][1])


# The naive version


class Base(DeclarativeBase):
    """The table of the naive version."""


class Person(NaiveSoftDeleteMixin, Base):
    """A user of the naive version."""

    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


@pytest.fixture
async def people(database_url: str) -> AsyncIterator[NaiveRepository[Person]]:
    """A naive repository in which the only person is deleted."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    async with session_scope(sessions) as session:
        session.add(Person(id=1, email="ada@example.com"))
        await session.flush()
        await NaiveRepository(Person, session).soft_delete(1, "ada")
    async with sessions() as session:
        yield NaiveRepository(Person, session)
    await engine.dispose()


async def test_the_naive_get_returns_the_deleted_row(
    people: NaiveRepository[Person], proof: Proof
) -> None:
    assert await people.list() == []
    person = await people.session.get(Person, 1)
    assert person is not None
    assert person.deleted_at is not None
    proof.breaks("`session.get` of a deleted row", "returns it")


async def test_the_naive_count_includes_the_deleted_row(
    people: NaiveRepository[Person], proof: Proof
) -> None:
    count = select(func.count()).select_from(Person)
    assert await people.session.scalar(count) == 1
    proof.breaks("A count over a table whose only row is deleted", "is 1")


async def test_the_naive_deletion_overwrites_who_deleted_first(
    people: NaiveRepository[Person], proof: Proof
) -> None:
    await people.soft_delete(1, "grace")
    assert (await people.session.get_one(Person, 1)).deleted_by == "grace"
    proof.breaks("A second deletion", "overwrites who deleted first, and when")


async def test_the_naive_row_keeps_its_address_from_being_used_again(
    people: NaiveRepository[Person], proof: Proof
) -> None:
    people.session.add(Person(id=2, email="ada@example.com"))
    with pytest.raises(IntegrityError):
        await people.session.flush()
    proof.breaks("Creating again what was deleted", "violates the unique constraint")


async def test_the_naive_update_and_delete_reach_the_deleted_row(
    people: NaiveRepository[Person], proof: Proof
) -> None:
    await people.session.execute(sa.update(Person).values(email="changed"))
    assert (await people.session.get_one(Person, 1)).email == "changed"
    await people.session.execute(sa.delete(Person))
    assert await people.session.get(Person, 1, populate_existing=True) is None
    proof.breaks("A bulk UPDATE", "changes deleted rows")
    proof.breaks("A bulk DELETE", "removes deleted rows and live ones for good")
