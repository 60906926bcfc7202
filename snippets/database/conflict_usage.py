"""Give new users an extension, and the next free one if theirs is taken."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.conflict import ConflictError, write_or_conflict


class Base(DeclarativeBase):
    """The tables of the example."""


class Extension(Base):
    """A number that rings one user's telephone."""

    __tablename__ = "extensions"
    __table_args__ = (
        sa.UniqueConstraint("number", name="uq_extensions_number"),
        sa.CheckConstraint("length(number) = 4", name="ck_extensions_number"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]
    owner: Mapped[str]


async def assign(session: AsyncSession, number: str, owner: str) -> Extension:
    """Return the new extension of a user."""
    insert = sa.insert(Extension).values(number=number, owner=owner)
    rows = await write_or_conflict(session, Extension, insert.returning(Extension))
    return rows[0]


async def main() -> None:
    """Assign extensions until one number is taken and one is not a number."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with AsyncSession(engine) as session:
        await assign(session, "1001", "Ada")
        try:
            await assign(session, "1001", "Grace")
        except ConflictError as conflict:
            print(conflict)
            # > Extension violates uq_extensions_number
            # The transaction goes on, so Grace can have the next one.
            await assign(session, "1002", "Grace")
        try:
            await assign(session, "17", "Edsger")
        except ConflictError as conflict:
            print(conflict.constraint)
            # > ck_extensions_number
        await session.commit()

        rows = await session.scalars(sa.select(Extension).order_by(Extension.number))
        print({row.number: row.owner for row in rows})
        # > {'1001': 'Ada', '1002': 'Grace'}
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
