"""Search a tenant's users by what comes in as query parameters."""

import asyncio
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.filters import (
    AnyOf,
    Contains,
    FieldError,
    Filter,
    order,
    where,
)


class Base(DeclarativeBase):
    """The tables of the example."""


class User(Base):
    """A user of the telephone system."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    name: Mapped[str]
    email: Mapped[str]
    extension: Mapped[str | None]


USERS = [
    User(tenant_id=1, name="Ada", email="ada@example.com", extension="1001"),
    User(tenant_id=1, name="Grace", email="grace_100%@example.com", extension=None),
    User(tenant_id=1, name="Edsger", email="ed@example.com", extension="1002"),
    User(tenant_id=2, name="Ada", email="ada@example.org", extension="1001"),
]


async def find(session: AsyncSession, *filters: Filter, by: str) -> Sequence[str]:
    """Return the names of the users that match all filters, in an order."""
    conditions = [where(User, each) for each in filters]
    query = sa.select(User.name).where(*conditions).order_by(*order(User, by))
    return (await session.scalars(query)).all()


async def main() -> None:
    """Search in several ways."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with AsyncSession(engine) as session:
        session.add_all(USERS)

        mine = {"tenant_id": 1}
        print(await find(session, mine, by="-name"))
        # > ['Grace', 'Edsger', 'Ada']
        print(await find(session, mine, {"extension": ["1001", None]}, by="name"))
        # > ['Ada', 'Grace']
        print(await find(session, mine, {"email": Contains("0%")}, by="name"))
        # > ['Grace']

        text = Contains("ED")
        either = AnyOf([{"name": text}, {"email": text}, {"extension": text}])
        print(await find(session, mine, either, User.id > 1, by="name"))
        # > ['Edsger']

        try:
            await find(session, {"password": "x"}, by="name")
        except FieldError as error:
            print(error)
            # > User.password is not a column
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
