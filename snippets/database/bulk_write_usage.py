"""A tenant's staff arrives as a list: import it, then bring it up to date."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.bulk_write import bulk_insert, upsert
from snippets.database.filters import FieldError
from snippets.database.row_batches import RowConflictError


class Base(DeclarativeBase):
    """The tables of this example."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"
    __table_args__ = (sa.UniqueConstraint("tenant_id", "email", name="uq_users_email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    email: Mapped[str]
    name: Mapped[str]
    ring_seconds: Mapped[int] = mapped_column(server_default=sa.text("20"))


def user(name: str, **more: object) -> dict[str, object]:
    """Return a user of tenant 7."""
    email = f"{name.lower()}@example.com"
    return {"tenant_id": 7, "email": email, "name": name, **more}


async def main() -> None:
    """Import three users, change one and add one, and refuse what is wrong."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        # A generator will do: an insert never holds more than a batch of it.
        staff = (user(name) for name in ("Ada", "Grace", "Edsger"))
        fields = ["id", "name", "ring_seconds"]
        print(await bulk_insert(session, User, staff, returning=fields))
        # > [(1, 'Ada', 20), (2, 'Grace', 20), (3, 'Edsger', 20)]

    async with session_scope(sessions) as session:
        changes = [user("Linus", ring_seconds=5), user("Ada", ring_seconds=30)]
        on = ["tenant_id", "email"]
        print(await upsert(session, User, changes, on=on, returning=["id", "name"]))
        # > [(4, 'Linus'), (1, 'Ada')]

    async with session_scope(sessions) as session:
        try:
            await bulk_insert(session, User, [user("Barbara"), user("Grace")])
        except RowConflictError as error:
            print(error)
            # > row 1: User violates uq_users_email
        try:
            await bulk_insert(session, User, [{"email) --": "x"}])
        except FieldError as error:
            print(error)
            # > User.email) -- is not a column
        try:
            await upsert(session, User, [user("Barbara", id=1)], on=["id"])
        except FieldError as error:
            print(error)
            # > User.tenant_id must be in the conflict target

    async with session_scope(sessions) as session:
        query = sa.select(User.name, User.ring_seconds).order_by(User.name)
        print([tuple(row) for row in await session.execute(query)])
        # > [('Ada', 30), ('Edsger', 20), ('Grace', 20), ('Linus', 5)]
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
