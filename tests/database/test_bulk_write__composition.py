"""Bulk writes of models that are audited and deleted softly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_mixin import (
    AuditMixin,
    NoActorError,
    install_audit_mixin,
    set_actor,
)
from snippets.database.bulk_write import bulk_insert, upsert
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    include_deleted,
    install_soft_delete,
    soft_delete,
    unique_live,
)
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    Sessions = async_sessionmaker[AsyncSession]

ADA, GRACE = "ada@example.com", "grace@example.com"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ON = ["email"]


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(AuditMixin, SoftDeleteMixin, Base):
    """Somebody with a telephone, whose address is free again after a deletion."""

    __tablename__ = "users"
    __table_args__ = (unique_live("uq_users_email", "email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    desk: Mapped[str | None]


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    """Sessions that audit and delete softly, on a database with three users."""
    engine, sessions = create_engine_and_sessions(database_url)
    install_audit_mixin(sessions)
    install_soft_delete(sessions, actor=lambda: ADA)
    await create_tables(engine, Base.metadata)
    with set_actor(ADA, clock=lambda: NOON):
        async with session_scope(sessions) as session:
            await bulk_insert(session, User, desks(a="1", b="2", c="3"))
    yield sessions
    await engine.dispose()


def desks(**by_email: str) -> list[dict[str, Any]]:
    """Return rows."""
    return [{"email": email, "desk": desk} for email, desk in by_email.items()]


async def test_inserted_and_upserted_rows_tell_who_and_when(sessions: Sessions) -> None:
    later = NOON + timedelta(hours=1)
    with set_actor(GRACE, clock=lambda: later):
        async with session_scope(sessions) as session:
            await upsert(session, User, desks(d="4", b="2", a="9"), on=ON)

    async with session_scope(sessions) as session:
        users = await session.scalars(sa.select(User).order_by(User.email))
        seen = [
            (user.email, user.desk, user.created_by, user.updated_by, user.updated_at)
            for user in users
        ]
    assert [row[:4] for row in seen] == [
        ("a", "9", ADA, GRACE),
        ("b", "2", ADA, ADA),  # it did not change
        ("c", "3", ADA, ADA),
        ("d", "4", GRACE, GRACE),
    ]
    times = [row[4].replace(tzinfo=UTC) for row in seen]
    assert times == [later, NOON, NOON, later]


async def test_nobody_writes_in_bulk_without_an_actor_or_in_another_s_name(
    sessions: Sessions,
) -> None:
    async with session_scope(sessions) as session:
        for write in (
            bulk_insert(session, User, desks(x="1")),
            upsert(session, User, desks(a="9"), on=ON),
        ):
            with pytest.raises(NoActorError):
                await write
        forged = [{**row, "created_by": GRACE} for row in desks(x="1")]
        with set_actor(ADA):
            for write in (
                bulk_insert(session, User, forged),
                upsert(session, User, forged, on=ON),
            ):
                with pytest.raises(InvalidRequestError, match="created_by"):
                    await write
        assert (await session.scalars(sa.select(User.desk))).all() == ["1", "2", "3"]


async def test_an_upsert_puts_a_new_row_beside_a_deleted_one(
    sessions: Sessions,
) -> None:
    with set_actor(ADA):
        async with session_scope(sessions) as session:
            assert await soft_delete(session, User, 1)
            back = desks(a="new", b="8")
            ids = await upsert(session, User, back, on=ON, returning=["email"])
            assert ids == [("a",), ("b",)]
            everybody = sa.select(User.email, User.desk, User.deleted_at.is_(None))
            rows = await session.execute(
                everybody.order_by(User.id), execution_options=include_deleted
            )
            assert [tuple(row) for row in rows] == [
                ("a", "1", False),
                ("b", "8", True),
                ("c", "3", True),
                ("a", "new", True),
            ]


async def test_an_upsert_that_could_hit_a_deleted_row_is_refused(
    sessions: Sessions,
) -> None:
    with set_actor(ADA):
        async with session_scope(sessions) as session:
            by_id = [{"id": 1, **row} for row in desks(a="9")]
            with pytest.raises(ValueError, match="no unique constraint"):
                await upsert(session, User, by_id, on=["id"])
