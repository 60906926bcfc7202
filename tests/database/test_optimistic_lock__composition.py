"""The lock beside soft deletion, the audit mixin and the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_mixin import (
    AuditMixin,
    current_actor,
    install_audit_mixin,
    set_actor,
)
from snippets.database.optimistic_lock import (
    VersionMixin,
    delete_unchanged,
    install_optimistic_lock,
)
from snippets.database.repository import BaseRepository
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    include_deleted,
    install_soft_delete,
    restore,
    soft_delete,
)
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    Sessions = async_sessionmaker[AsyncSession]

ADA, GRACE = "ada@example.com", "grace@example.com"


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(VersionMixin, AuditMixin, SoftDeleteMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    desk: Mapped[str]


@pytest.fixture(params=["soft deletion first", "lock first"])
async def sessions(
    database_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[Sessions]:
    """Sessions with all of it, on a database with Ada."""
    engine, sessions = create_engine_and_sessions(database_url)
    install_audit_mixin(sessions)
    if request.param == "lock first":
        install_optimistic_lock(sessions)
    install_soft_delete(sessions, actor=current_actor)
    if request.param != "lock first":
        install_optimistic_lock(sessions)
    await create_tables(engine, Base.metadata)
    with set_actor(ADA):
        async with session_scope(sessions) as session:
            session.add(User(id=1, desk="1.01"))
        yield sessions
    await engine.dispose()


async def read(sessions: Sessions) -> User:
    """Return Ada, deleted or not."""
    async with session_scope(sessions) as session:
        return await session.get_one(User, 1, execution_options=include_deleted)


async def test_the_repository_checks_and_advances_the_version_of_an_audited_row(
    sessions: Sessions,
) -> None:
    seen = await read(sessions)
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            users = BaseRepository(User, session)
            changed = await users.update(1, desk="2.17", version=seen.version)
            assert changed is not None
            assert (changed.desk, changed.updated_by) == ("2.17", GRACE)
            assert changed.version > seen.version
        stale = {"desk": "2.18", "version": seen.version}
        with pytest.raises(StaleDataError):
            async with session_scope(sessions) as session:
                await BaseRepository(User, session).update(1, **stale)
    assert (await read(sessions)).desk == "2.17"


async def test_a_bulk_update_that_changes_no_value_is_not_signed(
    sessions: Sessions,
) -> None:
    with set_actor(GRACE):
        async with session_scope(sessions) as session:
            await session.execute(sa.update(User).values(desk="1.01"))
    assert (await read(sessions)).updated_by == ADA


async def test_a_soft_deletion_is_a_change_like_others(sessions: Sessions) -> None:
    seen = await read(sessions)
    version = seen.version
    async with session_scope(sessions) as session:
        assert await soft_delete(session, User, 1)
    deleted = await read(sessions)
    assert deleted.version > version

    seen.desk = "2.17"
    with pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            session.add(seen)
    change = {"desk": "2.17", "version": deleted.version}
    with pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            await BaseRepository(User, session).update(1, **change)

    async with session_scope(sessions) as session:
        assert await restore(session, User, 1)
    restored = await read(sessions)
    assert (restored.desk, restored.deleted_at) == ("1.01", None)
    assert restored.version > deleted.version


async def test_a_soft_deletion_of_what_another_one_changed_is_refused(
    sessions: Sessions,
) -> None:
    seen = await read(sessions)
    async with session_scope(sessions) as session:
        await session.execute(sa.update(User).values(desk="2.17"))
    with pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            await delete_unchanged(session, seen)
    assert (await read(sessions)).deleted_at is None

    async with session_scope(sessions) as session:
        await delete_unchanged(session, await session.get_one(User, 1))
    assert (await read(sessions)).deleted_at is not None


async def test_the_unit_of_work_deletes_softly_at_whatever_version(
    sessions: Sessions,
) -> None:
    version = (await read(sessions)).version
    async with session_scope(sessions) as session:
        await session.delete(await session.get_one(User, 1))
    deleted = await read(sessions)
    assert deleted.deleted_at is not None
    assert deleted.version > version
