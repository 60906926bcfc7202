"""Rename users, and forget their cached names when the database has the new ones."""

import asyncio

from sqlalchemy import event, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.unitofwork import UOWTransaction

from snippets.caching.commit_invalidation import (
    CommitInvalidation,
    UnwatchedSessionError,
    invalidate_on_commit,
)
from snippets.database.async_session import create_engine_and_sessions, session_scope


class Base(DeclarativeBase):
    """The tables of this example."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]


invalidated: list[str] = []


async def invalidate(*tags: str) -> None:
    """Stand in for the method of a cache that removes what has one of these tags."""
    invalidated.extend(tags)


def report() -> str:
    """Return what was invalidated since the last report."""
    tags = ", ".join(invalidated)
    invalidated.clear()
    return tags or "nothing"


def name_changed_users(session: Session, _: UOWTransaction) -> None:
    """Name the tags of what a flush wrote, so that no caller can forget to."""
    for user in (*session.new, *session.dirty, *session.deleted):
        if isinstance(user, User):
            invalidate_on_commit(session, f"user:{user.id}")


async def main() -> None:
    """Commit, roll back, lose a savepoint, and write in bulk."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    CommitInvalidation(invalidate=invalidate).install(sessions)
    event.listen(sessions.kw["sync_session_class"], "after_flush", name_changed_users)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        session.add(User(id=7, tenant="acme", name="Ada"))
        session.add(User(id=8, tenant="acme", name="Grace"))
        await session.flush()
        print("written:", report())
        # > written: nothing
    print("committed:", report())
    # > committed: user:7, user:8

    async with session_scope(sessions) as session:
        (await session.get_one(User, 7)).name = "Ada Lovelace"
        async with session.begin_nested() as savepoint:
            (await session.get_one(User, 8)).name = "Grace Hopper"
            await session.flush()
            await savepoint.rollback()
    print("one of two kept:", report())
    # > one of two kept: user:7

    async with session_scope(sessions) as session:
        (await session.get_one(User, 7)).name = "Nobody"
        await session.flush()
        await session.rollback()
    print("rolled back:", report())
    # > rolled back: nothing

    async with session_scope(sessions) as session:
        await session.execute(update(User).values(tenant="globex"))
        invalidate_on_commit(session, "tenant:acme", "tenant:globex", "tenant:acme")
    print("in bulk:", report())
    # > in bulk: tenant:acme, tenant:globex

    try:
        async with AsyncSession(engine) as session:
            invalidate_on_commit(session, "user:7")
    except UnwatchedSessionError as error:
        print(error)
        # > this session's commits invalidate nothing
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
