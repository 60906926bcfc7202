"""Children go and come back with their parent, and never live without it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC
from typing import TypeAlias, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, ForeignKeyConstraint, UniqueConstraint, select
from sqlalchemy.exc import IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, relationship, selectinload

from catalogue.plugin import Proof
from snippets.database.async_session import session_scope
from snippets.database.conflict import ConflictError
from snippets.database.soft_delete import (
    Model,
    SoftDeleteMixin,
    include_deleted,
    only_deleted,
    purge,
    restore,
    soft_delete,
)
from tests.support.soft_delete import (
    Base,
    Extension,
    Telephony,
    User,
    Voicemail,
    telephony,
)

T = TypeVar("T")
Operation: TypeAlias = Callable[[AsyncSession], Awaitable[object]]

EXTENSIONS = Base.metadata.tables["extensions"]


class Mailbox(SoftDeleteMixin, Base):
    """A mailbox, whose greetings are kept from being deleted by accident."""

    __tablename__ = "mailboxes"
    __table_args__ = (UniqueConstraint("id", "live"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    greetings: Mapped[list["Greeting"]] = relationship(
        cascade="all, delete-orphan", foreign_keys="Greeting.mailbox_id"
    )
    rules: Mapped[list["Rule"]] = relationship(foreign_keys="Rule.mailbox_id")


class Greeting(SoftDeleteMixin, Base):
    """A greeting, which belongs to a mailbox."""

    __tablename__ = "greetings"

    id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(ForeignKey("mailboxes.id"))


class Rule(SoftDeleteMixin, Base):
    """A rule of a mailbox, to which no deletion cascades."""

    __tablename__ = "rules"
    __table_args__ = (
        ForeignKeyConstraint(
            ["mailbox_id", "live"], ["mailboxes.id", "mailboxes.live"]
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(ForeignKey("mailboxes.id"))


class Trunk(SoftDeleteMixin, Base):
    """A trunk with a cascade to rows that cannot be deleted softly."""

    __tablename__ = "trunks"

    id: Mapped[int] = mapped_column(primary_key=True)
    channels: Mapped[list["Channel"]] = relationship(cascade="all")


class Channel(Base):
    """A channel of a trunk, without the mixin."""

    __tablename__ = "channels"

    id: Mapped[int] = mapped_column(primary_key=True)
    trunk_id: Mapped[int] = mapped_column(ForeignKey("trunks.id"))


class Site(SoftDeleteMixin, Base):
    """A site with a cascade to the sites below it."""

    __tablename__ = "sites"

    id: Mapped[int] = mapped_column(primary_key=True)
    above_id: Mapped[int | None] = mapped_column(ForeignKey("sites.id"))
    below: Mapped[list["Site"]] = relationship(cascade="all")


MEMBERS = sa.Table(
    "members",
    Base.metadata,
    sa.Column("group_id", ForeignKey("groups.id"), primary_key=True),
    sa.Column("greeting_id", ForeignKey("greetings.id"), primary_key=True),
)


class Group(SoftDeleteMixin, Base):
    """A group with a cascade to what other groups may have as well."""

    __tablename__ = "groups"

    id: Mapped[int] = mapped_column(primary_key=True)
    greetings: Mapped[list[Greeting]] = relationship(secondary=MEMBERS, cascade="all")


class Seat(SoftDeleteMixin, Base):
    """A seat with a cascade to its parent."""

    __tablename__ = "seats"

    id: Mapped[int] = mapped_column(primary_key=True)
    site_id: Mapped[int | None] = mapped_column(ForeignKey("sites.id"))
    site: Mapped[Site | None] = relationship(cascade="all, delete", single_parent=True)


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Telephony]:
    """Two users with two extensions each, and a voicemail at each extension."""
    async with telephony(database_url) as platform:
        async with session_scope(platform.sessions) as session:
            session.add_all(User(id=n, email=f"{n}@example.com") for n in (1, 2))
            await session.flush()
            session.add_all(
                Extension(id=user * 10 + n, user_id=user, number=f"{user}00{n}")
                for user in (1, 2)
                for n in (1, 2)
            )
            await session.flush()
            session.add_all(Voicemail(id=n, extension_id=n) for n in (11, 12, 21, 22))
        yield platform


async def live(platform: Telephony) -> dict[str, list[int]]:
    """Return the keys of what is live, by table."""
    async with session_scope(platform.sessions) as session:
        return {
            model.__tablename__: [
                *await session.scalars(select(model.id).order_by(model.id))
            ]
            for model in (User, Extension, Voicemail)
        }


ALL = {
    "users": [1, 2],
    "extensions": [11, 12, 21, 22],
    "voicemails": [11, 12, 21, 22],
}
SECOND = {"users": [2], "extensions": [21, 22], "voicemails": [21, 22]}
"""What is left without the first user."""


async def _by_key(session: AsyncSession) -> None:
    assert await soft_delete(session, User, 1)


async def _by_instance(session: AsyncSession) -> None:
    await session.delete(await session.get_one(User, 1))


async def _by_instance_with_loaded_children(session: AsyncSession) -> None:
    children = selectinload(User.extensions).selectinload(Extension.voicemails)
    await session.delete(await session.get_one(User, 1, options=[children]))


async def _by_statement(session: AsyncSession) -> None:
    await session.execute(sa.delete(User).where(User.email == "1@example.com"))


async def _by_parameters(session: AsyncSession) -> None:
    statement = sa.delete(User).where(User.email == sa.bindparam("address"))
    await session.execute(statement, {"address": "1@example.com"})


async def _by_table(session: AsyncSession) -> None:
    users = Base.metadata.tables["users"]
    await session.execute(sa.delete(users).where(users.c.id == 1))


async def _by_what_its_children_are(session: AsyncSession) -> None:
    statement = sa.delete(User).where(User.extensions.any(Extension.number == "1001"))
    await session.execute(statement)


DELETIONS = [
    _by_key,
    _by_instance,
    _by_instance_with_loaded_children,
    _by_statement,
    _by_parameters,
    _by_table,
    _by_what_its_children_are,
]


@pytest.mark.parametrize("delete", DELETIONS)
async def test_children_and_grandchildren_go_with_their_parent_and_come_back_with_it(
    platform: Telephony, delete: Operation
) -> None:
    async with session_scope(platform.sessions) as session:
        await delete(session)
    assert await live(platform) == SECOND
    async with session_scope(platform.sessions) as session:
        for model in (User, Extension, Voicemail):
            marks = await session.execute(
                select(model.deleted_at, model.deleted_by),
                execution_options=only_deleted,
            )
            found = {(at and at.replace(tzinfo=UTC), by) for at, by in marks}
            assert found == {(platform.clock.now, "ada")}
        platform.clock.tick()
        assert await restore(session, User, 1)
    assert await live(platform) == ALL


async def test_loaded_children_show_that_they_are_deleted_and_restored(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        children = selectinload(User.extensions).selectinload(Extension.voicemails)
        user = await session.get_one(User, 1, options=[children])
        rows: list[SoftDeleteMixin] = [*user.extensions]
        rows += [each.voicemails[0] for each in user.extensions]
        await soft_delete(session, User, 1)
        assert {row.deleted_at for row in rows} == {platform.clock.now}
        await restore(session, User, 1)
        assert {row.deleted_at for row in rows} == {None}


async def test_what_was_deleted_before_its_parent_stays_deleted_after_it_is_restored(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, Extension, 11)
        platform.clock.tick()
        await soft_delete(session, User, 1)
        assert await restore(session, User, 1)
    left = [12, 21, 22]
    assert await live(platform) == ALL | {"extensions": left, "voicemails": left}


async def test_a_deletion_that_matches_nothing_takes_no_child(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        assert not await soft_delete(session, User, 99)
        await session.execute(sa.delete(User).where(User.email == ""))
    assert await live(platform) == ALL


async def test_a_family_is_purged_together_and_what_is_live_is_kept(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        await soft_delete(session, Extension, 21)
        # The children of the second user are not the first one's.
        assert await purge(session, User) == 1
    async with session_scope(platform.sessions) as session:
        left = select(Extension.id).order_by(Extension.id)
        rows = await session.scalars(left, execution_options=include_deleted)
        assert rows.all() == [21, 22]
    assert await live(platform) == SECOND | {"extensions": [22], "voicemails": [22]}


# A live child needs a live parent


async def _add(session: AsyncSession) -> None:
    session.add(Extension(id=13, user_id=1, number="1003"))
    await session.flush()


async def _add_to_the_instance(session: AsyncSession) -> None:
    user = await session.get(User, 1, execution_options=include_deleted)
    assert user is not None
    session.add(Extension(id=13, user=user, number="1003"))
    await session.flush()


async def _insert(session: AsyncSession) -> None:
    rows = [{"id": n, "user_id": 1, "number": str(n)} for n in (13, 14)]
    await session.execute(sa.insert(Extension), rows)


async def _insert_into_the_table(session: AsyncSession) -> None:
    await session.execute(sa.insert(EXTENSIONS).values(id=13, user_id=1, number="1003"))


async def _insert_as_text(session: AsyncSession) -> None:
    await session.execute(
        sa.text("INSERT INTO extensions (id, user_id, number) VALUES (13, 1, '1003')")
    )


async def _move(session: AsyncSession) -> None:
    await session.execute(
        sa.update(Extension).where(Extension.id == 21).values(user_id=1)
    )


async def _clear_the_mark(session: AsyncSession) -> None:
    statement = sa.update(Extension).where(Extension.id == 11).values(deleted_at=None)
    await session.execute(statement, execution_options=include_deleted)


ADDITIONS = [
    _add,
    _add_to_the_instance,
    _insert,
    _insert_into_the_table,
    _insert_as_text,
    _move,
    _clear_the_mark,
]


@pytest.mark.parametrize("add", ADDITIONS)
async def test_adding_a_child_to_a_deleted_parent_is_refused(
    platform: Telephony, add: Operation
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
    async with platform.sessions() as session:
        with pytest.raises(IntegrityError):
            await add(session)
    assert await live(platform) == SECOND


async def test_restoring_a_child_before_its_parent_is_a_conflict(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        with pytest.raises(ConflictError):
            await restore(session, Extension, 11)
    assert await live(platform) == SECOND


async def test_restoring_a_family_is_undone_where_a_child_has_lost_its_place(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await soft_delete(session, User, 1)
        session.add(Extension(id=23, user_id=2, number="1001"))
        await session.flush()
        with pytest.raises(ConflictError) as caught:
            await restore(session, User, 1)
        assert caught.value.constraint == "uq_extensions_number"
    assert await live(platform) == SECOND | {"extensions": [21, 22, 23]}


async def test_a_parent_whose_live_children_it_would_not_take_along_is_not_deleted(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        session.add(Mailbox(id=1))
        await session.flush()
        session.add(Rule(id=1, mailbox_id=1))
    async with platform.sessions() as session:
        with pytest.raises(IntegrityError):
            await soft_delete(session, Mailbox, 1)
    async with session_scope(platform.sessions) as session:
        assert await soft_delete(session, Rule, 1)
        assert await soft_delete(session, Mailbox, 1)


async def test_parent_and_child_may_be_deleted_in_one_flush_in_any_order(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        session.add(Mailbox(id=1))
        await session.flush()
        session.add(Rule(id=1, mailbox_id=1))
    async with session_scope(platform.sessions) as session:
        rows = await session.get_one(Mailbox, 1), await session.get_one(Rule, 1)
        for row in rows:
            await session.delete(row)
    async with session_scope(platform.sessions) as session:
        assert await session.get(Mailbox, 1) is None
        assert await session.get(Rule, 1) is None


async def test_an_orphan_is_neither_deleted_nor_lost(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        session.add(Mailbox(id=1, greetings=[Greeting(id=1)]))
    async with platform.sessions() as session:
        greetings = [selectinload(Mailbox.greetings)]
        mailbox = await session.get_one(Mailbox, 1, options=greetings)
        mailbox.greetings.clear()
        with pytest.raises(InvalidRequestError, match="Greeting is an orphan"):
            await session.flush()
    async with session_scope(platform.sessions) as session:
        assert (await session.get_one(Greeting, 1)).mailbox_id == 1


async def test_an_orphan_does_not_go_with_what_is_purged(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        session.add(Mailbox(id=1, greetings=[Greeting(id=1)]))
        await soft_delete(session, User, 1)
    async with platform.sessions() as session:
        greetings = [selectinload(Mailbox.greetings)]
        mailbox = await session.get_one(Mailbox, 1, options=greetings)
        mailbox.greetings.clear()
        session.autoflush = False
        with pytest.raises(InvalidRequestError, match="Greeting is an orphan"):
            await purge(session, User)


@pytest.mark.parametrize(
    ("parent", "cascade"),
    [
        (Trunk, "Trunk.channels"),
        (Site, "Site.below"),
        (Group, "Group.greetings"),
        (Seat, "Seat.site"),
    ],
)
async def test_a_cascade_that_would_lose_rows_or_take_those_of_others_is_refused(
    platform: Telephony, parent: Model, cascade: str
) -> None:
    async with session_scope(platform.sessions) as session:
        await session.execute(sa.insert(parent).values(id=1))
        with pytest.raises(TypeError, match=cascade):
            await soft_delete(session, parent, 1)
        with pytest.raises(TypeError, match=cascade):
            await session.execute(sa.delete(parent))
        assert await session.get(parent, 1) is not None


# Two at once


async def _apart(platform: Telephony, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do something in a unit of work of its own."""
    async with session_scope(platform.sessions) as session:
        return await act(session)


async def _until_blocked(platform: Telephony) -> None:
    """Wait until the task just created waits for the lock of this one's transaction.

    SQLite's driver waits in a thread of its own, unseen: there, wait until it was told
    to write, which it cannot before the commit that follows here.
    """
    async with asyncio.timeout(60):
        if platform.engine.dialect.name == "sqlite":
            writes = asyncio.Event()

            def note(_: object, __: object, statement: str, *___: object) -> None:
                if statement.startswith(("UPDATE", "INSERT")):
                    writes.set()

            sa.event.listen(platform.engine.sync_engine, "before_cursor_execute", note)
            await writes.wait()
            return
        waiting = sa.text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with platform.engine.connect() as observer:
            while not await observer.scalar(waiting):
                await observer.rollback()


async def test_of_two_deletions_at_once_one_takes_place(platform: Telephony) -> None:
    async with platform.sessions() as session:
        assert await soft_delete(session, Voicemail, 11)
        platform.actor = "grace"
        later = asyncio.create_task(
            _apart(platform, lambda other: soft_delete(other, Voicemail, 11))
        )
        await _until_blocked(platform)
        await session.commit()
        assert await later is False
    async with session_scope(platform.sessions) as session:
        marks = select(Voicemail.deleted_by).where(Voicemail.id == 11)
        assert await session.scalar(marks, execution_options=include_deleted) == "ada"


@pytest.mark.backends("postgresql")
async def test_of_two_deletions_of_a_family_at_once_one_takes_place(
    platform: Telephony,
) -> None:
    async with platform.sessions() as session:
        assert await soft_delete(session, User, 1)
        later = asyncio.create_task(
            _apart(platform, lambda other: soft_delete(other, User, 1))
        )
        await _until_blocked(platform)
        await session.commit()
        assert await later is False
    assert await live(platform) == SECOND


async def test_a_child_is_not_added_while_its_parent_is_being_deleted(
    platform: Telephony,
) -> None:
    async with platform.sessions() as session:
        assert await soft_delete(session, User, 1)
        later = asyncio.create_task(_apart(platform, _add))
        await _until_blocked(platform)
        await session.commit()
        with pytest.raises(IntegrityError):
            await later
    assert await live(platform) == SECOND


async def test_a_parent_to_which_a_child_is_being_added_is_not_deleted_without_it(
    platform: Telephony, database_backend: str, proof: Proof
) -> None:
    async with platform.sessions() as session:
        await _add(session)
        later = asyncio.create_task(_apart(platform, _by_key))
        title = "A parent is deleted while another transaction adds a child"
        if database_backend == "postgresql":
            await _until_blocked(platform)
            await session.commit()
            await later
            proof.differs(title, "the deletion waits, and takes the child along")
        else:
            with pytest.raises(OperationalError, match="database is locked"):
                await later
            await session.commit()
            proof.differs(title, "the deletion fails: the database is locked")
    added = ALL | {"extensions": [11, 12, 13, 21, 22]}
    assert (
        await live(platform)
        == {"postgresql": SECOND, "sqlite": added}[database_backend]
    )
