"""Release the extensions of a user who leaves, instead of deleting them."""

import asyncio
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import (
    create_engine_and_sessions,
    relationship,
    session_scope,
)
from snippets.database.delete_as_update import DeleteAsUpdate


class Base(DeclarativeBase):
    """The tables of this example."""


class ReleasedMixin:
    """Why a row is no longer in use, if it is not."""

    released: Mapped[str | None]


class User(ReleasedMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    extensions: Mapped[list["Extension"]] = relationship(
        cascade="all", passive_deletes=True
    )


class Extension(ReleasedMixin, Base):
    """A number that rings at a user's desk."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))


def in_use(row: type[ReleasedMixin]) -> sa.ColumnElement[bool]:
    """Hold for the rows that are not released."""
    return row.released.is_(None)


def on_leaving() -> Mapping[str, object]:
    """Return what a deletion sets."""
    return {"released": "left the company"}


async def main() -> None:
    """Delete a user, and see what is left of the extensions."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    released = DeleteAsUpdate(ReleasedMixin, in_use, on_leaving)
    released.listen(sessions.kw["sync_session_class"])
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        session.add(User(id=1, extensions=[Extension(number="1001")]))

    async with session_scope(sessions) as session:
        await session.delete(await session.get_one(User, 1))

    reason = sa.select(Extension.released).where(Extension.number == "1001")
    async with session_scope(sessions) as session:
        print(await session.scalar(reason))
        # > left the company

    async with session_scope(sessions) as session:
        gone = sa.delete(User).returning(User.id)
        print((await session.scalars(gone)).all())
        # > []
        physical = {"physical": True}
        print((await session.scalars(gone, execution_options=physical)).all())
        # > [1]
        print(await session.scalar(reason))
        # > None
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
