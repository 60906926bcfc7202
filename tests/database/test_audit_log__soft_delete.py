"""The log tells of a soft deletion what it is: an update, of each row, once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_log import AuditBase, AuditEntry, install_audit_log
from snippets.database.audit_mixin import (
    AuditMixin,
    current_actor,
    install_audit_mixin,
    set_actor,
)
from snippets.database.repository import BaseRepository
from snippets.database.row_changes import AuditedMixin
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    install_soft_delete,
    purge,
    restore,
    soft_delete,
)
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    Sessions = async_sessionmaker[AsyncSession]
    Install = Callable[[Sessions], None]

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(AuditedMixin, AuditMixin, SoftDeleteMixin, Base):
    """Somebody, whose voicemails go along."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    voicemails: Mapped[list[Voicemail]] = relationship(
        cascade="all", passive_deletes=True
    )


class Voicemail(AuditedMixin, AuditMixin, SoftDeleteMixin, Base):
    """A message, which is deleted softly."""

    __tablename__ = "voicemails"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey(User.id))


def _soft_delete(sessions: Sessions) -> None:
    install_soft_delete(sessions, actor=current_actor, clock=lambda: NOON)


ORDERS: dict[str, list[Install]] = {
    "log first": [install_audit_log, _soft_delete, install_audit_mixin],
    "log between": [_soft_delete, install_audit_log, install_audit_mixin],
    "log last": [_soft_delete, install_audit_mixin, install_audit_log],
}


@pytest.fixture(params=ORDERS)
async def sessions(
    database_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[Sessions]:
    """Sessions with all three, on a database with a user and two voicemails."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata, AuditBase.metadata)
    with set_actor("ada"):
        async with sessions.begin() as session:
            session.add(User(id=1, voicemails=[Voicemail(id=1), Voicemail(id=2)]))
    for install in ORDERS[request.param]:
        install(sessions)
    yield sessions
    await engine.dispose()


async def told(sessions: Sessions) -> list[tuple[str, str, str]]:
    """Return the action, table and key of each entry."""
    columns = AuditEntry.action, AuditEntry.table_name, AuditEntry.row_key
    async with sessions() as session:
        rows = await session.execute(sa.select(*columns).order_by(AuditEntry.id))
        return [(action, table, key) for action, table, key in rows]


async def delete_instance(session: AsyncSession) -> None:
    await session.delete(await session.get_one(User, 1))
    await session.flush()


async def delete_in_bulk(session: AsyncSession) -> None:
    await session.execute(sa.delete(User).where(User.id == 1))


async def delete_by_table(session: AsyncSession) -> None:
    table = Base.metadata.tables["users"]
    await session.execute(sa.delete(table).where(table.c.id == 1))


async def delete_by_key(session: AsyncSession) -> None:
    assert await soft_delete(session, User, 1)


async def delete_by_repository(session: AsyncSession) -> None:
    assert await BaseRepository(User, session).delete(1)


EVERYTHING = [
    ("update", "voicemails", "[1]"),
    ("update", "voicemails", "[2]"),
    ("update", "users", "[1]"),
]


@pytest.mark.parametrize(
    "delete",
    [
        delete_instance,
        delete_in_bulk,
        delete_by_table,
        delete_by_key,
        delete_by_repository,
    ],
)
async def test_a_soft_deletion_is_told_as_an_update_of_each_row_once(
    sessions: Sessions, delete: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    with set_actor("grace"):
        async with session_scope(sessions) as session:
            await delete(session)
    assert await told(sessions) == EVERYTHING
    async with sessions() as session:
        entry = (await session.scalars(sa.select(AuditEntry))).all()[-1]
    assert entry.actor == "grace"
    assert entry.changed["deleted_by"] == [None, "grace"]
    assert entry.changed["updated_by"] == ["ada", "grace"]
    assert entry.changed.keys() == {
        "deleted_at",
        "deleted_by",
        "updated_at",
        "updated_by",
    }


async def test_a_flush_with_a_deletion_and_a_change_tells_each_once(
    sessions: Sessions,
) -> None:
    with set_actor("grace"):
        async with session_scope(sessions) as session:
            session.add(User(id=2, name="linus"))
            await session.delete(await session.get_one(Voicemail, 2))
            (await session.get_one(User, 1)).name = "ada"
    assert sorted(await told(sessions)) == [
        ("insert", "users", "[2]"),
        ("update", "users", "[1]"),
        ("update", "voicemails", "[2]"),
    ]


async def test_a_second_deletion_a_restoration_and_a_purge_are_told_as_they_are(
    sessions: Sessions,
) -> None:
    with set_actor("grace"):
        async with session_scope(sessions) as session:
            await delete_by_key(session)
            assert not await soft_delete(session, User, 1)
        assert await told(sessions) == EVERYTHING
        async with session_scope(sessions) as session:
            assert await restore(session, User, 1)
            await delete_by_key(session)
        async with session_scope(sessions) as session:
            assert await purge(session, User) == 1
    found = await told(sessions)
    assert found[3:6] == EVERYTHING[2:] + EVERYTHING[:2]
    assert found[6:9] == EVERYTHING
    assert found[9:] == [("delete", table, key) for _, table, key in EVERYTHING]
