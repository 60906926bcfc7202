"""A tenant's users and extensions with all of it: each pattern keeps its promise."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from catalogue.plugin import Proof
from snippets.database.async_session import (
    create_engine_and_sessions,
    relationship,
    session_scope,
)
from snippets.database.audit_log import (
    AuditBase,
    AuditEntry,
    install_audit_log,
    set_origin,
)
from snippets.database.audit_mixin import (
    AuditMixin,
    NoActorError,
    current_actor,
    install_audit_mixin,
    set_actor,
)
from snippets.database.conflict import ConflictError
from snippets.database.optimistic_lock import VersionMixin, install_optimistic_lock
from snippets.database.repository import BaseRepository
from snippets.database.row_changes import AuditedMixin
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    include_deleted,
    install_soft_delete,
    restore,
    soft_delete,
    unique_live,
)
from tests.support.counters import count_sql
from tests.support.databases import create_tables

Sessions: TypeAlias = async_sessionmaker[AsyncSession]
Act: TypeAlias = Callable[[AsyncSession], Awaitable[object]]

TENANT = "acme"


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(AuditedMixin, VersionMixin, AuditMixin, SoftDeleteMixin, Base):
    """A user of a tenant, whose address only one live user has."""

    __tablename__ = "users"
    __table_args__ = (
        unique_live("uq_users_email", "tenant_id", "email"),
        sa.UniqueConstraint("id", "live"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(default=TENANT)
    email: Mapped[str]
    extensions: Mapped[list["Extension"]] = relationship(
        cascade="all", passive_deletes=True, foreign_keys="Extension.user_id"
    )


class Extension(AuditedMixin, VersionMixin, AuditMixin, SoftDeleteMixin, Base):
    """A number that needs a live user."""

    __tablename__ = "extensions"
    __table_args__ = (
        sa.ForeignKeyConstraint(["user_id", "live"], ["users.id", "users.live"]),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))


def _soft(sessions: Sessions) -> None:
    install_soft_delete(sessions, actor=current_actor)


# The audit mixin stands before the lock, as the lock asks.
ORDERS: dict[str, list[Callable[[Sessions], None]]] = {
    "log last": [
        install_audit_mixin,
        _soft,
        install_optimistic_lock,
        install_audit_log,
    ],
    "log first": [
        install_audit_log,
        install_audit_mixin,
        install_optimistic_lock,
        _soft,
    ],
}


@pytest.fixture(params=ORDERS)
async def sessions(
    database_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[Sessions]:
    """Sessions with all of it, on a database with Ada and her extension."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata, AuditBase.metadata)
    for install in ORDERS[request.param]:
        install(sessions)
    with set_actor("root"):
        async with session_scope(sessions) as session:
            extension = Extension(id=1, number="1001")
            session.add(User(id=1, email="ada@example.com", extensions=[extension]))
    yield sessions
    await engine.dispose()


async def told(sessions: Sessions) -> list[AuditEntry]:
    """Return what was logged after the set-up."""
    async with sessions() as session:
        entries = await session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id))
        return [*entries][2:]


async def stored(sessions: Sessions, key: int = 1) -> User:
    """Return a user, deleted or not."""
    async with sessions() as session:
        return await session.get_one(User, key, execution_options=include_deleted)


async def test_a_new_user_is_signed_versioned_and_logged(sessions: Sessions) -> None:
    with set_actor("grace"), set_origin(tenant=TENANT, request_id="r-1"):
        async with session_scope(sessions) as session:
            user = await BaseRepository(User, session).create(
                id=2, email="linus@example.com"
            )
            assert (user.created_by, user.updated_by) == ("grace", "grace")
            assert user.version > 0
    (entry,) = await told(sessions)
    assert (entry.actor, entry.tenant, entry.request_id) == ("grace", TENANT, "r-1")
    assert (entry.action, entry.table_name, entry.row_key) == ("insert", "users", "[2]")
    assert entry.changed["email"] == [None, "linus@example.com"]


async def test_the_second_writer_stores_signs_and_logs_nothing(
    sessions: Sessions,
) -> None:
    seen = await stored(sessions)

    async def save(session: AsyncSession, email: str) -> User | None:
        users = BaseRepository(User, session)
        return await users.update(1, email=email, version=seen.version)

    with set_actor("grace"):
        async with session_scope(sessions) as session:
            await save(session, "grace@example.com")
    with set_actor("linus"), pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            await save(session, "linus@example.com")

    user = await stored(sessions)
    assert (user.email, user.updated_by) == ("grace@example.com", "grace")
    (entry,) = await told(sessions)
    assert entry.changed["email"] == ["ada@example.com", "grace@example.com"]
    assert entry.changed["version"] == [seen.version, user.version]


async def _by_function(session: AsyncSession) -> None:
    assert await soft_delete(session, User, 1)


async def _by_repository(session: AsyncSession) -> None:
    assert await BaseRepository(User, session).delete(1)


async def _by_unit_of_work(session: AsyncSession) -> None:
    await session.delete(await session.get_one(User, 1))


async def _in_bulk(session: AsyncSession) -> None:
    await session.execute(sa.delete(User))


@pytest.mark.parametrize(
    "delete", [_by_function, _by_repository, _by_unit_of_work, _in_bulk]
)
async def test_a_deleted_user_is_hidden_signed_advanced_and_logged_with_the_extension(
    sessions: Sessions, delete: Act
) -> None:
    before = await stored(sessions)
    with set_actor("grace"):
        async with session_scope(sessions) as session:
            await delete(session)

    async with sessions() as session:
        users = BaseRepository(User, session)
        assert await users.get(1) is None
        assert (await users.list()).items == []
        assert await users.count() == 0
        assert await session.scalar(sa.select(sa.func.count(Extension.id))) == 0
    after = await stored(sessions)
    assert (after.created_by, after.updated_by) == ("root", "grace")
    assert after.deleted_by == "grace"
    assert after.version > before.version
    entries = await told(sessions)
    assert {(each.action, each.table_name, each.actor) for each in entries} == {
        ("update", "users", "grace"),
        ("update", "extensions", "grace"),
    }
    assert len(entries) == 2


async def test_an_instance_of_a_deleted_user_cannot_be_saved(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        user = await session.get_one(User, 1)
    with set_actor("grace"):
        async with session_scope(sessions) as session:
            await soft_delete(session, User, 1)
        user.email = "late@example.com"
        with pytest.raises(StaleDataError):
            async with session_scope(sessions) as session:
                session.add(user)
    assert (await stored(sessions)).email == "ada@example.com"
    assert len(await told(sessions)) == 2


async def test_a_user_whose_address_was_given_away_stays_deleted(
    sessions: Sessions,
) -> None:
    with set_actor("grace"):
        async with session_scope(sessions) as session:
            await soft_delete(session, User, 1)
            await BaseRepository(User, session).create(id=2, email="ada@example.com")
        logged = len(await told(sessions))
        async with session_scope(sessions) as session:
            with pytest.raises(ConflictError, match="uq_users_email"):
                await restore(session, User, 1)
    assert (await stored(sessions)).deleted_by == "grace"
    assert len(await told(sessions)) == logged


async def _create(session: AsyncSession) -> object:
    return await BaseRepository(User, session).create(id=9, email="9@example.com")


async def _update(session: AsyncSession) -> object:
    return await session.execute(sa.update(User).values(email="9@example.com"))


async def _flush(session: AsyncSession) -> object:
    (await session.get_one(User, 1)).email = "9@example.com"
    await session.flush()
    return None


async def _delete(session: AsyncSession) -> object:
    return await soft_delete(session, User, 1)


WRITES = [_create, _update, _flush, _delete]


@pytest.mark.parametrize("write", WRITES)
async def test_nobody_writes_anything(sessions: Sessions, write: Act) -> None:
    before = await stored(sessions)
    async with sessions() as session:
        with pytest.raises((NoActorError, sa.exc.StatementError)) as caught:
            await write(session)
    assert isinstance(getattr(caught.value, "orig", caught.value), NoActorError)
    assert (await stored(sessions)).version == before.version
    assert await told(sessions) == []


@pytest.mark.parametrize("write", WRITES)
async def test_a_rollback_leaves_neither_a_change_nor_an_entry(
    sessions: Sessions, write: Act
) -> None:
    before = await stored(sessions)
    with set_actor("grace"):
        async with sessions() as session:
            await write(session)
            await session.rollback()
    after = await stored(sessions)
    assert (after.version, after.email) == (before.version, before.email)
    assert await told(sessions) == []


async def test_two_requests_at_once_are_told_apart(sessions: Sessions) -> None:
    with set_actor("root"):
        async with session_scope(sessions) as session:
            session.add(User(id=2, email="linus@example.com"))
    both_are_in, turn = asyncio.Barrier(2), asyncio.Lock()

    async def request(actor: str, key: int) -> None:
        with set_actor(actor), set_origin(tenant=TENANT, request_id=actor):
            await both_are_in.wait()
            # SQLite refuses a writer that has read before another one wrote.
            async with turn, session_scope(sessions) as session:
                users = BaseRepository(User, session)
                await users.update(key, email=f"{actor}@example.org")
            await both_are_in.wait()

    await asyncio.gather(request("grace", 1), request("edsger", 2))

    for key, actor in (1, "grace"), (2, "edsger"):
        user = await stored(sessions, key)
        assert (user.updated_by, user.email) == (actor, f"{actor}@example.org")
    entries = (await told(sessions))[1:]
    rows = {(entry.row_key, entry.actor, entry.request_id) for entry in entries}
    assert rows == {("[1]", "grace", "grace"), ("[2]", "edsger", "edsger")}


async def test_what_an_update_costs_with_all_of_it(
    sessions: Sessions, proof: Proof
) -> None:
    with set_actor("grace"):
        async with session_scope(sessions) as session:
            users = BaseRepository(User, session)
            await users.get(1)
            with count_sql(sessions.kw["bind"]) as sql:
                await users.update(1, email="grace@example.com")
    words = [text.split()[0] for text in sql.texts]
    assert sorted(words) == ["INSERT", "SELECT", "SELECT", "UPDATE"]
    proof.cost("update of a signed, versioned row", statements=4)
