"""A day's calls are imported from a stream, the whole day or nothing of it."""

import asyncio
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.row_batches import RowConflictError, send_in_batches


class Base(DeclarativeBase):
    """The tables of this example."""


class Call(Base):
    """A call, as the exchange reports it."""

    __tablename__ = "calls"

    id: Mapped[str] = mapped_column(primary_key=True)
    seconds: Mapped[int] = mapped_column(
        sa.CheckConstraint("seconds >= 0", name="ck_calls_seconds")
    )


def day(calls: int, *, broken: int = -1) -> Iterator[dict[str, object]]:
    """Yield the calls of a day, of which one may have a clock that ran backwards."""
    for number in range(calls):
        yield {"id": f"c-{number}", "seconds": -60 if number == broken else 60}


async def main() -> None:
    """Import a broken day, and then the same day mended."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    count = sa.select(sa.func.count()).select_from(Call)

    async with session_scope(sessions) as session:
        session.add(Call(id="before", seconds=1))
        try:
            calls = enumerate(day(2500, broken=1700))
            await send_in_batches(session, Call, sa.insert(Call), calls)
        except RowConflictError as error:
            print(error)
            # > row 1700: Call violates ck_calls_seconds
        # The error left the caller's transaction as it was before the import.
        print(await session.scalar(count))
        # > 1
        await send_in_batches(session, Call, sa.insert(Call), enumerate(day(2500)))

    async with session_scope(sessions) as session:
        print(await session.scalar(count))
        # > 2501
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
