"""A soft deletion is an update: the row tells who deleted it, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_mixin import (
    AuditMixin,
    current_actor,
    install_audit_mixin,
    set_actor,
)
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    install_soft_delete,
    restore,
    soft_delete,
)
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Sessions = async_sessionmaker[AsyncSession]

ADA, GRACE = "ada@example.com", "grace@example.com"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ONE = timedelta(minutes=1)


class Base(DeclarativeBase):
    """The tables of these tests."""


class Voicemail(AuditMixin, SoftDeleteMixin, Base):
    """A message, which is deleted softly."""

    __tablename__ = "voicemails"

    id: Mapped[int] = mapped_column(primary_key=True)


async def audit_of(sessions: Sessions) -> tuple[str, datetime, str]:
    """Return who created the row, and when and by whom it was updated."""
    async with sessions() as session:
        row = await session.get_one(Voicemail, 1)
        return row.created_by, row.updated_at.replace(tzinfo=UTC), row.updated_by


async def delete_instance(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Voicemail, 1))
    await session.flush()


async def delete_in_bulk(session: AsyncSession) -> None:
    await session.execute(sa.delete(Voicemail).where(Voicemail.id == 1))


async def delete_by_key(session: AsyncSession) -> None:
    assert await soft_delete(session, Voicemail, 1)


def audit_first(sessions: Sessions) -> None:
    install_audit_mixin(sessions)
    install_soft_delete(sessions, actor=current_actor)


def soft_delete_first(sessions: Sessions) -> None:
    install_soft_delete(sessions, actor=current_actor)
    install_audit_mixin(sessions)


@pytest.mark.parametrize("install", [audit_first, soft_delete_first])
@pytest.mark.parametrize("delete", [delete_instance, delete_in_bulk, delete_by_key])
async def test_a_soft_deletion_and_a_restoration_are_updates(
    database_url: str,
    delete: Callable[[AsyncSession], Awaitable[None]],
    install: Callable[[Sessions], None],
) -> None:
    engine, sessions = create_engine_and_sessions(database_url)
    install(sessions)
    await create_tables(engine, Base.metadata)
    with set_actor(ADA, clock=lambda: NOON):
        async with session_scope(sessions) as session:
            session.add(Voicemail(id=1))
    everything = async_sessionmaker(engine)

    with set_actor(GRACE, clock=lambda: NOON + ONE):
        async with session_scope(sessions) as session:
            await delete(session)
    deleted = await audit_of(everything)
    assert deleted == (ADA, NOON + ONE, GRACE)

    with set_actor("linus", clock=lambda: NOON + 2 * ONE):
        async with session_scope(sessions) as session:
            assert not await soft_delete(session, Voicemail, 1)
            assert await audit_of(everything) == deleted
            assert await restore(session, Voicemail, 1)
    restored = await audit_of(everything)
    assert restored == (ADA, NOON + 2 * ONE, "linus")
    await engine.dispose()
