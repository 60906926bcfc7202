"""Ada hires Grace, Grace moves, and nobody changes her without saying who they are."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_mixin import (
    AuditMixin,
    NoActorError,
    install_audit_mixin,
    set_actor,
)


class Base(DeclarativeBase):
    """The tables of this example."""


class User(AuditMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    desk: Mapped[str]


async def main() -> None:
    """Write as two people, in three ways, and then as nobody."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    install_audit_mixin(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    with set_actor("ada@example.com"):
        async with session_scope(sessions) as session:
            grace = User(email="grace@example.com", desk="2.17")
            session.add(grace)
            # It fills the columns of a bulk INSERT just as well.
            linus = {"email": "linus@example.com", "desk": "2.18"}
            await session.execute(sa.insert(User), [linus])
    print(grace.created_by, grace.updated_by)
    # > ada@example.com ada@example.com

    mover = sa.select(User.updated_by).order_by(User.id)
    with set_actor("grace@example.com"):
        async with session_scope(sessions) as session:
            # Both users match, but Grace alone moves.
            await session.execute(sa.update(User).values(desk="2.18"))
            print((await session.scalars(mover)).all())
            # > ['grace@example.com', 'ada@example.com']

            try:
                await session.execute(sa.update(User).values(created_by="me"))
            except InvalidRequestError as error:
                print(error)
                # > created_by is for the audit mixin to set

    try:
        async with session_scope(sessions) as session:
            await session.execute(sa.update(User).values(desk="3.01"))
    except NoActorError as error:
        print(error)
        # > nobody is writing: enter set_actor()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
