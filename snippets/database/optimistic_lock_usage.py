"""Ada and Grace change the forwarding of one extension that both have seen."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.optimistic_lock import (
    VersionMixin,
    delete_unchanged,
    install_optimistic_lock,
)


class Base(DeclarativeBase):
    """The tables of this example."""


class Extension(VersionMixin, Base):
    """Where a number forwards its calls to."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    forwards_to: Mapped[str]


async def main() -> None:
    """Let Ada be first, and Grace be told."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    install_optimistic_lock(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with session_scope(sessions) as session:
        session.add(Extension(number="1017", forwards_to="reception"))

    async with session_scope(sessions) as session:
        adas = await session.get_one(Extension, "1017")
    async with session_scope(sessions) as session:
        graces = await session.get_one(Extension, "1017")

    adas.forwards_to = "voicemail"
    async with session_scope(sessions) as session:
        session.add(adas)
    print("Ada's change is saved")
    # > Ada's change is saved

    seen = graces.version
    graces.forwards_to = "mobile"
    try:
        async with session_scope(sessions) as session:
            session.add(graces)
    except StaleDataError:
        print("Grace is told that somebody was faster")
        # > Grace is told that somebody was faster

    # One statement can check the version that a form was made of, and reads nothing.
    update = sa.update(Extension).where(Extension.number == "1017")
    try:
        async with session_scope(sessions) as session:
            await session.execute(update.values(version=seen, forwards_to="mobile"))
    except StaleDataError as error:
        print(error)
        # > 0 rows, not 1, were at the version expected
    async with session_scope(sessions) as session:
        seen = adas.version
        await session.execute(update.values(version=seen, forwards_to="mobile"))

    try:
        async with session_scope(sessions) as session:
            await delete_unchanged(session, adas)
    except StaleDataError:
        print("what has changed is not deleted either")
        # > what has changed is not deleted either
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
