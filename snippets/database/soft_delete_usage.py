"""Delete a user with an extension, give the number away, and clean up."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import (
    create_engine_and_sessions,
    relationship,
    session_scope,
)
from snippets.database.conflict import ConflictError
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


class Base(DeclarativeBase):
    """The tables of this example."""


class User(SoftDeleteMixin, Base):
    """Somebody with a telephone, who takes the extensions along."""

    __tablename__ = "users"
    __table_args__ = (sa.UniqueConstraint("id", "live"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    extensions: Mapped[list["Extension"]] = relationship(
        cascade="all", passive_deletes=True, foreign_keys="Extension.user_id"
    )


class Extension(SoftDeleteMixin, Base):
    """A number that only one live extension has, and that needs a live user."""

    __tablename__ = "extensions"
    __table_args__ = (
        unique_live("uq_extensions_number", "number"),
        sa.ForeignKeyConstraint(["user_id", "live"], ["users.id", "users.live"]),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))


async def main() -> None:
    """Follow one number from its first user to its second."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    install_soft_delete(sessions, actor=lambda: "ada")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        session.add(User(id=1, extensions=[Extension(id=1, number="1001")]))
        session.add(User(id=2))

    async with session_scope(sessions) as session:
        print(await soft_delete(session, User, 1))
        # > True
        print(await soft_delete(session, User, 1))
        # > False

    numbers = sa.select(Extension.number)
    async with session_scope(sessions) as session:
        print(await session.get(User, 1))
        # > None
        print((await session.scalars(numbers)).all())
        # > []
        deleted = await session.execute(
            sa.select(Extension.number, Extension.deleted_by),
            execution_options=only_deleted,
        )
        print(deleted.all())
        # > [('1001', 'ada')]

    async with session_scope(sessions) as session:
        session.add(Extension(id=2, number="1001", user_id=2))

    async with session_scope(sessions) as session:
        try:
            await restore(session, User, 1)
        except ConflictError as error:
            print(error)
            # > Extension violates uq_extensions_number

    async with session_scope(sessions) as session:
        print(await purge(session, User, User.deleted_by == "ada"))
        # > 1
        left = await session.scalars(numbers, execution_options=include_deleted)
        print(left.all())
        # > ['1001']
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
