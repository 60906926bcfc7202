"""Soft deletion beside a repository, an audit mixin, a version and another filter."""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    declared_attr,
    mapped_column,
)
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_mixin import (
    AuditMixin,
    current_actor,
    install_audit_mixin,
    set_actor,
)
from snippets.database.delete_as_update import DeleteAsUpdate
from snippets.database.repository import BaseRepository
from snippets.database.row_filter import RowFilter, hiding
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    include_deleted,
    install_soft_delete,
    only_deleted,
    purge,
    restore,
    soft_delete,
    unique_live,
)
from tests.support.databases import create_tables

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

TENANT = 7
LATER = datetime(2100, 1, 1, tzinfo=UTC)


class Base(DeclarativeBase):
    """The tables of these tests."""


class TenantMixin:
    """Whose a row is."""

    tenant_id: Mapped[int] = mapped_column(default=TENANT)


class VersionMixin:
    """A version, which the unit of work raises and checks."""

    version: Mapped[int] = mapped_column()

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, object]:
        """Say which column it is."""
        return {"version_id_col": cls.version}


class User(VersionMixin, TenantMixin, AuditMixin, SoftDeleteMixin, Base):
    """A user who belongs to a tenant, is audited, and has a version."""

    __tablename__ = "users"
    __table_args__ = (unique_live("uq_users_email", "tenant_id", "email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class EndedMixin:
    """Whether something has ended, which is another way not to be deleted."""

    ended: Mapped[bool] = mapped_column(default=False)


class Call(EndedMixin, Base):
    """A call, which ends instead of being deleted."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)


def is_on(row: type[EndedMixin]) -> sa.ColumnElement[bool]:
    return row.ended.is_(False)


def of_tenant(row: type[TenantMixin]) -> sa.ColumnElement[bool]:
    return row.tenant_id == TENANT


def of_others(row: object, _: Mapping[str, Any]) -> bool:
    return isinstance(row, TenantMixin) and row.tenant_id != TENANT


def install_tenant(sessions: Sessions) -> None:
    """Show the rows of one tenant alone."""
    own = hiding(sessions.kw["sync_session_class"], of_others)
    sa.event.listen(own, "do_orm_execute", RowFilter(TenantMixin, of_tenant).apply)
    sessions.configure(sync_session_class=own)


def install_version(sessions: Sessions) -> None:
    """Raise the version in every UPDATE statement, as the unit of work does."""

    def raise_version(state: ORMExecuteState) -> None:
        statement = state.statement
        if not isinstance(statement, sa.Update):
            return
        if statement.entity_description.get("entity") is User:
            state.statement = statement.values(version=User.version + 1)

    own = type("Versioned", (sessions.kw["sync_session_class"],), {})
    sa.event.listen(own, "do_orm_execute", raise_version)
    sessions.configure(sync_session_class=own)


def install_deletion(sessions: Sessions) -> None:
    """Let the auditor's actor be the one who deletes."""
    install_soft_delete(sessions, actor=current_actor)


INSTALLATIONS: list[Callable[[Sessions], None]] = [
    install_audit_mixin,
    install_deletion,
    install_tenant,
    install_version,
]


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """Two users of this tenant, and one of another."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    async with session_scope(sessions) as session:
        with set_actor("creator"):
            for n, tenant in ((1, TENANT), (2, TENANT), (3, TENANT + 1)):
                session.add(User(id=n, tenant_id=tenant, email=f"{n}@example.com"))
            await session.flush()
    yield engine, sessions
    await engine.dispose()


@pytest.fixture(params=["in order", "in reverse"])
def sessions(
    engine_and_sessions: tuple[AsyncEngine, Sessions], request: pytest.FixtureRequest
) -> Sessions:
    """Sessions into which all is installed, in one order and in the other."""
    _, sessions = engine_and_sessions
    order = INSTALLATIONS if request.param == "in order" else INSTALLATIONS[::-1]
    for install in order:
        install(sessions)
    return sessions


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """The engine, which shows everything."""
    return engine_and_sessions[0]


async def everything(engine: AsyncEngine) -> dict[int, User]:
    """Return all rows as they are in the database, by key."""
    async with AsyncSession(engine) as session:
        return {user.id: user for user in await session.scalars(select(User))}


async def test_a_deletion_is_an_update_to_the_audit_and_raises_the_version(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    async with session_scope(sessions) as session:
        with set_actor("deleter", clock=lambda: LATER):
            assert await soft_delete(session, User, 1)
    user = (await everything(engine))[1]
    assert (user.created_by, user.updated_by) == ("creator", "deleter")
    assert user.deleted_by == "deleter"
    assert user.updated_at.replace(tzinfo=UTC) == LATER
    assert user.version == 2


async def test_a_restoration_is_an_update_too(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    async with session_scope(sessions) as session:
        with set_actor("deleter"):
            await soft_delete(session, User, 1)
        with set_actor("restorer"):
            assert await restore(session, User, 1)
    user = (await everything(engine))[1]
    assert (user.created_by, user.updated_by) == ("creator", "restorer")
    assert (user.deleted_at, user.deleted_by, user.version) == (None, None, 3)


async def test_nobody_deletes_without_an_actor(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    async with sessions() as session:
        with pytest.raises(LookupError):
            await soft_delete(session, User, 1)
    assert (await everything(engine))[1].deleted_at is None


@pytest.mark.parametrize("way", ["key", "class", "table", "instances"])
async def test_a_deletion_reaches_no_row_of_another_tenant(
    sessions: Sessions, engine: AsyncEngine, way: str
) -> None:
    async with session_scope(sessions) as session:
        with set_actor("deleter"):
            if way == "key":
                assert not await soft_delete(session, User, 3)
                assert await soft_delete(session, User, 1)
                assert await soft_delete(session, User, 2)
            elif way == "class":
                await session.execute(sa.delete(User))
            elif way == "table":
                await session.execute(sa.delete(Base.metadata.tables["users"]))
            else:
                for user in (await session.scalars(select(User))).all():
                    await session.delete(user)
                await session.flush()
    rows = await everything(engine)
    assert {n for n, user in rows.items() if user.deleted_at is not None} == {1, 2}


async def test_nothing_of_another_tenant_is_seen_restored_or_purged(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    async with session_scope(sessions) as session:
        with set_actor("restorer"):
            async with engine.begin() as connection:
                await connection.execute(sa.update(User).values(deleted_at=LATER))
            assert not await restore(session, User, 3)
            assert await restore(session, User, 1)
            users = select(User.id)
            found = await session.scalars(users, execution_options=include_deleted)
            assert {*found} == {1, 2}
            assert await session.get(User, 3, execution_options=only_deleted) is None
            assert await purge(session, User) == 1
    assert (await everything(engine)).keys() == {1, 3}


async def test_a_version_refuses_to_change_what_another_transaction_has_deleted(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        user = await session.get_one(User, 1)
        await session.commit()
        async with session_scope(sessions) as other:
            with set_actor("deleter"):
                await soft_delete(other, User, 1)
        user.email = "changed@example.com"
        with set_actor("writer"), pytest.raises(StaleDataError):
            await session.flush()


async def test_a_model_with_another_end_meets_its_own(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    ended = DeleteAsUpdate(EndedMixin, is_on, lambda: {"ended": True})
    ended.listen(sessions.kw["sync_session_class"])
    async with session_scope(sessions) as session:
        with set_actor("deleter"):
            session.add(Call(id=1))
            await session.flush()
            await session.execute(sa.delete(Call))
            await session.delete(await session.get_one(User, 1))
            await session.flush()
        assert (await session.get_one(Call, 1)).ended
    assert (await everything(engine))[1].deleted_by == "deleter"


async def test_a_repository_of_such_sessions_hides_and_deletes_softly(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    async with session_scope(sessions) as session:
        users = BaseRepository(User, session)
        with set_actor("deleter"):
            assert await users.delete(1)
            assert not await users.delete(1)
            assert await users.get(1) is None
            assert [user.id for user in (await users.list()).items] == [2]
            assert await users.count() == 1
            assert not await users.exists({"id": 1})
            assert await users.soft_delete(2)
            assert await users.get(2) is None
            again = await users.create(
                id=4, tenant_id=TENANT, email="1@example.com", version=1
            )
            assert await users.get(4) is again
    rows = await everything(engine)
    assert {n for n, user in rows.items() if user.deleted_at is not None} == {1, 2}


async def test_what_the_database_s_clock_marked_as_deleted_is_restored(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    async with session_scope(sessions) as session:
        with set_actor("deleter"):
            assert await BaseRepository(User, session).soft_delete(1)
    async with session_scope(sessions) as session:
        with set_actor("restorer"):
            assert await restore(session, User, 1)
            assert not await restore(session, User, 1)
    assert (await everything(engine))[1].deleted_at is None


async def test_a_repository_of_a_session_that_sees_deleted_rows_lists_them(
    sessions: Sessions,
) -> None:
    async with session_scope(sessions) as session:
        with set_actor("deleter"):
            await soft_delete(session, User, 1)
        users = BaseRepository(User, session)
        assert await users.get(1, include_deleted=True) is None
        assert await users.count(include_deleted=True) == 1
    async with sessions(execution_options=include_deleted) as session:
        users = BaseRepository(User, session)
        assert await users.get(1, include_deleted=True) is not None
        page = await users.list(include_deleted=True, with_total=True)
        assert ([user.id for user in page.items], page.total) == ([1, 2], 2)
        assert [user.id for user in (await users.list()).items] == [2]
