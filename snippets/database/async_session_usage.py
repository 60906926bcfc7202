"""Create users and extensions, each unit of work in a scope of its own."""

import asyncio

from sqlalchemy import ForeignKey, select
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, selectinload

from snippets.database.async_session import (
    create_engine_and_sessions,
    relationship,
    session_scope,
)


class Base(DeclarativeBase):
    """The tables of this example."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    extensions: Mapped[list["Extension"]] = relationship()


class Extension(Base):
    """A number that rings at a user's desk."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))


async def main() -> None:
    """Commit one unit of work, lose half of a second, and read in a third."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        ada = User(email="ada@example.com", extensions=[Extension(number="1001")])
        session.add(ada)

    async with session_scope(sessions) as session:
        session.add(Extension(number="1002", user_id=ada.id))
        try:
            async with session.begin_nested():
                session.add(User(email=ada.email))
        except IntegrityError:
            print("the address is taken, but the new extension is kept")
            # > the address is taken, but the new extension is kept

    async with session_scope(sessions) as session:
        ada = await session.get_one(User, ada.id)
        try:
            print(ada.extensions)
        except InvalidRequestError as error:
            print(error)
            # > 'User.extensions' is not available due to lazy='raise'

    async with session_scope(sessions) as session:
        everything = [selectinload(User.extensions)]
        ada = await session.get_one(User, ada.id, options=everything)
    print([extension.number for extension in ada.extensions])
    # > ['1001', '1002']

    try:
        await session.scalars(select(User))
    except InvalidRequestError as error:
        print(str(error).partition(" and ")[0])
        # > This Session has been permanently closed
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
