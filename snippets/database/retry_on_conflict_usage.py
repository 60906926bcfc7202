"""A job appends to a hunt group while Ada changes it."""

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
    """Let the job lose once."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    install_optimistic_lock(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with session_scope(sessions) as session:
        session.add(HuntGroup(name="sales", rings="1001"))
        await session.flush()
        old = (await session.get_one(HuntGroup, "sales")).version
    seen = [old]

    async def append(session: AsyncSession) -> str:
        groups = BaseRepository(HuntGroup, session)
        group = await session.get_one(HuntGroup, "sales")
        if seen:  # Ada is faster, once
            version = seen.pop()
            await groups.update("sales", rings="1002", version=version)
            await session.commit()
            return await append_to(session, version, "1001")
        return await append_to(session, group.version, group.rings)

    async def append_to(session: AsyncSession, version: int, rings: str) -> str:
        print("append to", rings)
        # > append to 1001
        # > append to 1002
        groups = BaseRepository(HuntGroup, session)
        changed = await groups.update("sales", rings=f"{rings} 1003", version=version)
        return changed.rings if changed else "no such group"

    print(await retry_on_conflict(sessions, append))
    # > 1002 1003
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
