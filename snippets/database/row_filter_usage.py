"""Hide the calls of a closed billing period from all that a session sends."""

import asyncio
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.row_filter import RowFilter, hiding


class Base(DeclarativeBase):
    """The tables of this example."""


class BilledMixin:
    """Whether a row belongs to a billing period that is closed."""

    closed: Mapped[bool] = mapped_column(default=False)


class Call(BilledMixin, Base):
    """A call that somebody pays for."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    seconds: Mapped[int]


def is_open(row: type[BilledMixin]) -> sa.ColumnElement[bool]:
    """Hold for the rows of the open period."""
    return row.closed.is_(False)


def is_closed(row: object, _: Mapping[str, object]) -> bool:
    """Return whether an instance is to be hidden."""
    return isinstance(row, BilledMixin) and row.closed


async def main() -> None:
    """Close the period of one call, and look for it."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    own = hiding(sessions.kw["sync_session_class"], is_closed)
    sa.event.listen(own, "do_orm_execute", RowFilter(BilledMixin, is_open).apply)
    sessions.configure(sync_session_class=own)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        session.add_all([Call(id=1, seconds=60, closed=True), Call(id=2, seconds=30)])

    async with session_scope(sessions) as session:
        calls = await session.scalars(sa.select(Call))
        print([call.id for call in calls])
        # > [2]
        table = Base.metadata.tables["calls"]
        print(await session.scalar(sa.select(sa.func.sum(table.c.seconds))))
        # > 30
        await session.execute(sa.update(Call).values(seconds=0))
        print(await session.get(Call, 1))
        # > None

    async with AsyncSession(engine) as session:
        print((await session.get_one(Call, 1)).seconds)
        # > 60
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
