"""Go on with a batch of voicemails after the last one that was handled."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.keyset import after, sort_terms


class Base(DeclarativeBase):
    """The tables of the example."""


class Voicemail(Base):
    """A recorded message; its length is unknown until it was processed."""

    __tablename__ = "voicemails"

    id: Mapped[int] = mapped_column(primary_key=True)
    seconds: Mapped[int | None]


async def main() -> None:
    """Read what comes after the first of two equally long messages."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with AsyncSession(engine) as session:
        session.add_all(Voicemail(seconds=each) for each in (30, None, 30, 10))
        terms = sort_terms(Voicemail, "seconds", engine.dialect)
        query = sa.select(Voicemail.id).where(after(terms, [30, 1]))
        query = query.order_by(*(term.order() for term in terms))
        print((await session.scalars(query)).all())
        # > [3, 2]
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
