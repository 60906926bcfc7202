"""Keep a tenant's users: create, page, change, and remove them."""

import asyncio
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.conflict import ConflictError
from snippets.database.filters import Contains, FieldError
from snippets.database.repository import BaseRepository


class Base(DeclarativeBase):
    """The tables of the example."""


class User(Base):
    """A user of the telephone system."""

    __tablename__ = "users"
    __table_args__ = (
        sa.UniqueConstraint("tenant_id", "email", name="uq_users_tenant_id_email"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    email: Mapped[str]
    name: Mapped[str]
    deleted_at: Mapped[datetime | None]
    deleted_by: Mapped[str | None]


class UserRepository(BaseRepository[User]):
    """The users, with a finder of their own."""

    def __init__(self, session: AsyncSession) -> None:
        """Work in the transaction of `session`."""
        super().__init__(User, session)

    async def find_by_email(self, tenant_id: int, email: str) -> User | None:
        """Return the tenant's user with this address."""
        return await self.get_by({"tenant_id": tenant_id, "email": email})


async def main() -> None:
    """Go through one unit of work."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with AsyncSession(engine, expire_on_commit=False) as session:
        users = UserRepository(session)
        for name in ("Ada", "Grace", "Edsger"):
            email = f"{name.lower()}@example.com"
            await users.create(tenant_id=7, email=email, name=name)

        page = await users.list(
            {"tenant_id": 7}, order_by="-name", limit=2, with_total=True
        )
        print([user.name for user in page.items], page.has_more, page.total)
        # > ['Grace', 'Edsger'] True 3

        ada = await users.find_by_email(7, "ada@example.com")
        print(ada is not None and await users.update(ada.id, name="Countess") is ada)
        # > True

        try:
            await users.update(1, emial="ada@example.org")
        except FieldError as error:
            print(error)
            # > User.emial is not a column
        try:
            await users.update(1, tenant_id=8)
        except FieldError as error:
            print(error)
            # > User.tenant_id may not be updated
        try:
            await users.update(1, email="grace@example.com")
        except ConflictError as conflict:
            print(conflict)
            # > User violates uq_users_tenant_id_email

        print(await users.soft_delete(2, deleted_by="ada"), await users.get(2))
        # > True None
        print(await users.count(), await users.count(include_deleted=True))
        # > 2 3
        print(await users.exists({"email": Contains("GRACE")}))
        # > False
        print(await users.delete(2), await users.delete(2))
        # > True False
        await session.commit()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
