"""Two tenants share the tables of a telephony platform, and see nothing of it."""

import asyncio
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.auth.tenancy import (
    NoTenantError,
    TenantMixin,
    bypass_tenancy,
    install_tenancy,
    set_tenant,
)
from snippets.auth.tenant_boundary import BoundaryError
from snippets.database.async_session import create_engine_and_sessions, session_scope

ACME = UUID("aaaaaaaa-0000-4000-8000-000000000001")
GLOBEX = UUID("bbbbbbbb-0000-4000-8000-000000000002")


class Base(DeclarativeBase):
    """The tables of this example."""


class User(TenantMixin, Base):
    """Somebody with a telephone, whose e-mail address is unique within the tenant."""

    __tablename__ = "users"
    __table_args__ = (
        sa.UniqueConstraint("tenant_id", "id"),  # for the foreign key below
        sa.UniqueConstraint("tenant_id", "email"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Extension(TenantMixin, Base):
    """A number, which rings at a user of the same tenant or at nobody's."""

    __tablename__ = "extensions"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.id"]
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]
    user_id: Mapped[int]


async def main() -> None:
    """Let two tenants have a user with the same address, and look at both."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    install_tenancy(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    for number, tenant in ((1, ACME), (2, GLOBEX)):
        with set_tenant(tenant):
            async with session_scope(sessions) as session:
                session.add(User(id=number, email="ada@example.com"))

    everyone = sa.select(User.id)
    count = sa.select(sa.func.count()).select_from(User.__table__)
    with set_tenant(ACME):
        async with session_scope(sessions) as session:
            print((await session.scalars(everyone)).all())
            # > [1]
            print(await session.scalar(count))
            # > 1
            print(await session.get(User, 2))
            # > None
            await session.execute(sa.update(User).values(email="ada@acme.example"))

    async with session_scope(sessions) as session:
        try:
            await session.scalars(everyone)
        except NoTenantError as error:
            print(error)
            # > no tenant: enter set_tenant(), or bypass_tenancy()

    with set_tenant(ACME):
        async with sessions() as session:
            session.add(Extension(id=1, number="1001", user_id=2))
            try:
                await session.flush()
            except sa.exc.IntegrityError as error:
                print(error.orig)
                # > FOREIGN KEY constraint failed
        async with sessions() as session:
            session.add(User(id=3, email="eve@example.com", tenant_id=GLOBEX))
            try:
                await session.flush()
            except BoundaryError as error:
                print(error)
                # > tenant_id is not the caller's own

    with bypass_tenancy():
        async with session_scope(sessions) as session:
            emails = sa.select(User.email).order_by(User.id)
            print((await session.scalars(emails)).all())
            # > ['ada@acme.example', 'ada@example.com']
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
