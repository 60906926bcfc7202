"""One model is a tenant's, is deleted softly, audited and kept by a repository."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from snippets.auth.tenancy import (
    NoTenantError,
    TenantMixin,
    bypass_tenancy,
    install_tenancy,
    set_tenant,
)
from snippets.auth.tenant_boundary import BoundaryError
from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_mixin import (
    AuditMixin,
    current_actor,
    install_audit_mixin,
    set_actor,
)
from snippets.database.bulk_write import bulk_insert, upsert
from snippets.database.conflict import ConflictError
from snippets.database.repository import BaseRepository
from snippets.database.row_changes import AuditedMixin
from snippets.database.row_diff import Change
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
from snippets.database.statement_changes import tell_statements

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

A = UUID(int=0xA)
B = UUID(int=0xB)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


class Base(DeclarativeBase):
    """The tables of these tests."""


class Agent(TenantMixin, AuditMixin, SoftDeleteMixin, Base):
    """Somebody who answers calls, of a tenant, audited, and deleted softly."""

    __tablename__ = "agents"
    __table_args__ = (
        unique_live("uq_agents_email", "tenant_id", "email"),
        sa.UniqueConstraint("tenant_id", "id", "live"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    queue: Mapped[str] = mapped_column(default="")


class Queue(AuditedMixin, TenantMixin, Base):
    """What agents serve, each change of which is told."""

    __tablename__ = "queues"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def install_deletion(sessions: Sessions) -> None:
    """Let the auditor's actor be the one who deletes."""
    install_soft_delete(sessions, actor=current_actor)


INSTALLATIONS: list[Callable[[Sessions], None]] = [
    install_tenancy,
    install_audit_mixin,
    install_deletion,
]


@pytest.fixture(params=["first", "last"])
async def platform(
    database_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """Agents 1 and 3 of tenant A and 2 of B; tenancy is installed first or last."""
    engine, sessions = create_engine_and_sessions(database_url)
    first = request.param == "first"
    for install in INSTALLATIONS if first else INSTALLATIONS[::-1]:
        install(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    for n, tenant in ((1, A), (2, B), (3, A)):
        with set_tenant(tenant), set_actor("creator"):
            async with session_scope(sessions) as session:
                session.add(Agent(id=n, email=f"{n}@example.com"))
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def sessions(platform: tuple[AsyncEngine, Sessions]) -> Sessions:
    """Sessions into which all is installed."""
    return platform[1]


async def everything(platform: tuple[AsyncEngine, Sessions]) -> dict[int, Agent]:
    """Return all rows as they are in the database, by key."""
    async with AsyncSession(platform[0]) as session:
        return {agent.id: agent for agent in await session.scalars(select(Agent))}


async def test_a_repository_keeps_to_the_tenant_whose_rows_it_deletes_and_signs(
    platform: tuple[AsyncEngine, Sessions],
) -> None:
    with set_tenant(A), set_actor("ada", clock=lambda: LATER):
        async with session_scope(platform[1]) as session:
            agents = BaseRepository(Agent, session)
            assert [one.id for one in (await agents.list()).items] == [1, 3]
            assert await agents.count() == 2
            assert await agents.get(2) is None
            assert not await agents.exists({"id": 2})
            assert await agents.update(2, queue="x") is None
            assert not await agents.delete(2)
            changed = await agents.update(1, queue="support")
            assert changed is not None
            assert (changed.updated_by, changed.tenant_id) == ("ada", A)
            assert await agents.delete(3)
            assert await agents.get(3) is None
            again = await agents.create(id=4, email="3@example.com")
            assert again.tenant_id == A
            with pytest.raises(ConflictError):
                await agents.create(id=5, email="1@example.com")
            with pytest.raises(BoundaryError):
                await agents.create(id=6, email="6@example.com", tenant_id=B)
    rows = await everything(platform)
    assert {n for n, one in rows.items() if one.deleted_at is not None} == {3}
    assert (rows[3].deleted_by, rows[2].updated_by) == ("ada", "creator")
    assert (rows[2].queue, rows[4].tenant_id) == ("", A)


@pytest.mark.parametrize("way", ["key", "class", "table", "instances"])
async def test_a_deletion_marks_the_rows_of_its_tenant_alone(
    platform: tuple[AsyncEngine, Sessions], way: str
) -> None:
    with set_tenant(A), set_actor("deleter"):
        async with session_scope(platform[1]) as session:
            if way == "key":
                deleted = [await soft_delete(session, Agent, n) for n in (1, 2, 3)]
                assert deleted == [True, False, True]
            elif way == "class":
                await session.execute(sa.delete(Agent))
            elif way == "table":
                await session.execute(sa.delete(Base.metadata.tables["agents"]))
            else:
                for agent in (await session.scalars(select(Agent))).all():
                    await session.delete(agent)
    marks = {n: one.deleted_by for n, one in (await everything(platform)).items()}
    assert marks == {1: "deleter", 2: None, 3: "deleter"}


async def test_deleted_rows_of_another_tenant_are_not_seen_restored_or_purged(
    platform: tuple[AsyncEngine, Sessions],
) -> None:
    with bypass_tenancy(), set_actor("deleter"):
        async with session_scope(platform[1]) as session:
            await session.execute(sa.delete(Agent))
    with set_tenant(A), set_actor("restorer"):
        async with session_scope(platform[1]) as session:
            keys = select(Agent.id).order_by(Agent.id)
            for options in (include_deleted, only_deleted):
                found = await session.scalars(keys, execution_options=options)
                assert found.all() == [1, 3]
                assert await session.get(Agent, 2, execution_options=options) is None
            assert not await restore(session, Agent, 2)
            assert await restore(session, Agent, 1)
            assert await purge(session, Agent) == 1
    assert (await everything(platform)).keys() == {1, 2}


async def test_without_a_tenant_nothing_is_deleted_restored_or_purged(
    sessions: Sessions,
) -> None:
    acts: list[Callable[[AsyncSession], Any]] = [
        lambda session: soft_delete(session, Agent, 1),
        lambda session: restore(session, Agent, 1),
        lambda session: purge(session, Agent),
        lambda session: BaseRepository(Agent, session).list(),
    ]
    for act in acts:
        async with sessions() as session:
            with set_actor("nobody"), pytest.raises(NoTenantError):
                await act(session)


async def test_rows_in_bulk_are_the_tenants_and_overwrite_no_other(
    platform: tuple[AsyncEngine, Sessions],
) -> None:
    rows: Sequence[dict[str, object]] = [
        {"id": 10, "email": "1@example.com", "queue": "x"},
        {"id": 11, "email": "2@example.com", "queue": "x"},
    ]
    with set_tenant(A), set_actor("importer"):
        async with session_scope(platform[1]) as session:
            await upsert(session, Agent, rows, on=["tenant_id", "email"])
            await bulk_insert(session, Agent, [{"id": 12, "email": "new@example.com"}])
    rows_now = {
        n: (one.tenant_id, one.queue) for n, one in (await everything(platform)).items()
    }
    assert rows_now == {
        1: (A, "x"),
        2: (B, ""),
        3: (A, ""),
        11: (A, "x"),
        12: (A, ""),
    }


@pytest.mark.parametrize("first", [True, False])
async def test_the_audit_log_is_told_of_the_tenants_rows_alone(
    database_url: str, *, first: bool
) -> None:
    engine, sessions = create_engine_and_sessions(database_url)
    told: list[Change] = []

    def tell(sessions: Sessions) -> None:
        def record(_: Session, changes: Sequence[Change]) -> None:
            told.extend(changes)

        tell_statements(sessions.kw["sync_session_class"], record)

    for install in (install_tenancy, tell) if first else (tell, install_tenancy):
        install(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with session_scope(sessions) as session:
        for n, tenant in ((1, A), (2, B)):
            with set_tenant(tenant):
                await session.execute(sa.insert(Queue).values(id=n, name="support"))
        told.clear()
        with set_tenant(A):
            await session.execute(sa.update(Queue).values(name="sales"))
            await session.execute(sa.delete(Queue))
    assert [(one.action, one.row_key) for one in told] == [
        ("update", "[1]"),
        ("delete", "[1]"),
    ]
    async with AsyncSession(engine) as session:
        names = await session.execute(select(Queue.id, Queue.name))
        assert names.all() == [(2, "support")]
    await engine.dispose()
