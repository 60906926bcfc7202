"""A job appends to a hunt group of which it has a copy that Ada has outdated."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.optimistic_lock import VersionMixin, install_optimistic_lock
from snippets.database.repository import BaseRepository
from snippets.database.retry_on_conflict import retry_on_conflict


class Base(DeclarativeBase):
    """The tables of this example."""


class HuntGroup(VersionMixin, Base):
    """The extensions that ring one after the other."""

    __tablename__ = "hunt_groups"

    name: Mapped[str] = mapped_column(primary_key=True)
    rings: Mapped[str]


async def main() -> None:
    """Let the job lose once, and read again."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    install_optimistic_lock(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with session_scope(sessions) as session:
        session.add(HuntGroup(name="sales", rings="1001"))
    async with session_scope(sessions) as session:
        copies = [await session.get_one(HuntGroup, "sales")]
    async with session_scope(sessions) as session:
        await BaseRepository(HuntGroup, session).update("sales", rings="1002")

    async def append(session: AsyncSession) -> str:
        groups = BaseRepository(HuntGroup, session)
        seen = copies.pop() if copies else await session.get_one(HuntGroup, "sales")
        print("append to", seen.rings)
        # > append to 1001
        # > append to 1002
        change = {"rings": f"{seen.rings} 1003", "version": seen.version}
        changed = await groups.update("sales", **change)
        return changed.rings if changed else "no such group"

    print(await retry_on_conflict(sessions, append))
    # > 1002 1003
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
