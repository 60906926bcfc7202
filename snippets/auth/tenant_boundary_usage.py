"""Send statements for one tenant that would show or change the calls of another."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    aliased,
    join,
    mapped_column,
)

from snippets.auth.tenant_boundary import Boundary, BoundaryError
from snippets.database.async_session import create_engine_and_sessions

ACME, GLOBEX = "acme", "globex"


class Base(DeclarativeBase):
    """The tables of this example."""


class BilledMixin:
    """Who pays."""

    payer: Mapped[str]


class Call(BilledMixin, Base):
    """A call that somebody pays for."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    seconds: Mapped[int]


async def send(session: AsyncSession, statement: sa.Executable) -> str:
    """Send a statement, and return what became of it."""
    try:
        await session.execute(statement)
    except BoundaryError as error:
        return f"refused: {error}"
    return "sent"


async def main() -> None:
    """Try what a row filter cannot narrow."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    boundary = Boundary(BilledMixin, "payer", lambda: ACME)
    own = sessions.kw["sync_session_class"]
    sa.event.listen(own, "do_orm_execute", boundary.admit)
    other = aliased(Call)
    async with sessions() as session:
        print(await send(session, sa.select(Call)))
        # > sent
        print(await send(session, sa.text("SELECT * FROM calls")))
        # > refused: not narrowed: text, a made-up table, or a nested write
        pairs = join(Call, other, Call.id != other.id)
        print(await send(session, sa.select(other).select_from(pairs)))
        # > refused: beside classes, a table or join is not narrowed
        longest = sa.select(sa.func.max(Call.seconds)).scalar_subquery()
        copy = sa.insert(Call).values(id=1, seconds=longest, payer=ACME)
        print(await send(session, copy))
        # > refused: a write by other rows is not narrowed: read first
        print(await send(session, sa.update(Call).values(payer=GLOBEX)))
        # > refused: payer is not the caller's own
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
