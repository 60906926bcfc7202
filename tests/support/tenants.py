"""The models, the two tenants and the sessions that the tests of tenancy share."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry

from snippets.auth.tenancy import (
    NoTenantError,
    TenantMixin,
    bypass_tenancy,
    install_tenancy,
    set_tenant,
)
from snippets.database.async_session import create_engine_and_sessions

T = TypeVar("T")
Ask: TypeAlias = Callable[[AsyncSession], Awaitable[T]]

A = UUID(int=0xA)
B = UUID(int=0xB)


class Base(AsyncAttrs, DeclarativeBase):
    """The tables of these tests."""


class User(TenantMixin, Base):
    """Somebody with a telephone, whose name is unique within the tenant."""

    __tablename__ = "users"
    __table_args__ = (
        sa.UniqueConstraint("tenant_id", "id"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_users_name"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    desk: Mapped[str] = mapped_column(default="")
    note: Mapped[str | None] = orm.query_expression()
    extensions: Mapped[list["Extension"]] = orm.relationship(back_populates="user")
    forwarded: Mapped[list["Extension"]] = orm.relationship(
        primaryjoin="User.id == foreign(Extension.forward_id)", viewonly=True
    )
    reached: Mapped[list["User"]] = orm.relationship(
        secondary="extensions",
        primaryjoin="User.id == foreign(Extension.user_id)",
        secondaryjoin="User.id == foreign(Extension.forward_id)",
        viewonly=True,
    )
    written: orm.WriteOnlyMapped["Extension"] = orm.relationship(
        primaryjoin="User.id == foreign(Extension.forward_id)", viewonly=True
    )


class Extension(TenantMixin, Base):
    """A number of a user, forwarded to a user whom no foreign key checks."""

    __tablename__ = "extensions"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.id"]
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(default="1001")
    user_id: Mapped[int]
    forward_id: Mapped[int | None]
    user: Mapped[User] = orm.relationship(back_populates="extensions")
    desk_of: Mapped[User] = orm.relationship(overlaps="extensions,user")
    forwarded_to: Mapped[User | None] = orm.relationship(
        primaryjoin="User.id == foreign(Extension.forward_id)", viewonly=True
    )


class Call(Base):
    """A call, which belongs to no tenant."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    note: Mapped[str | None] = orm.query_expression()
    user: Mapped[User | None] = orm.relationship(
        primaryjoin="User.id == foreign(Call.user_id)", viewonly=True
    )


@dataclass
class Tenants:
    """A database in which tenant A and tenant B each have a user with an extension."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]

    async def everything(self, statement: sa.Executable) -> list[tuple[object, ...]]:
        """Return what a session finds that nothing is installed in."""
        async with AsyncSession(self.engine) as session:
            return [tuple(row) for row in await session.execute(statement)]


SCOPES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "A": lambda: set_tenant(A),
    "B": lambda: set_tenant(B),
    "all": bypass_tenancy,
    "nobody": nullcontext,
}


async def in_each_scope(
    sessions: async_sessionmaker[AsyncSession], ask: Ask[T]
) -> dict[str, T | str]:
    """Return what is answered to each tenant, in a session of its own; undo it then."""
    answers: dict[str, T | str] = {}
    for name, scope in SCOPES.items():
        async with sessions() as session:
            with scope():
                try:
                    answers[name] = await ask(session)
                except NoTenantError:
                    answers[name] = "refused"
    return answers


@asynccontextmanager
async def tenants(url: str) -> AsyncIterator[Tenants]:
    """Yield the database at `url` with the rows; each forwards to the other tenant."""
    engine, sessions = create_engine_and_sessions(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine.sync_engine, "connect", _do_not_wait_for_the_disk)
    install_tenancy(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session:
        with bypass_tenancy():
            for n, tenant in ((1, A), (2, B)):
                session.add(User(id=n, tenant_id=tenant, name="ab"[n - 1]))
                session.add(Call(id=n, user_id=n))
            await session.flush()
            for n, tenant in ((1, A), (2, B)):
                session.add(
                    Extension(id=n, tenant_id=tenant, user_id=n, forward_id=3 - n)
                )
            await session.commit()
    try:
        yield Tenants(engine, sessions)
    finally:
        await engine.dispose()


def _do_not_wait_for_the_disk(
    connection: DBAPIConnection, _: ConnectionPoolEntry
) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()
