"""List calls page by page, forwards and back, and refuse a cursor of another list."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.cursor_pagination import CursorError, PageRequest, cursor_page


class Base(DeclarativeBase):
    """The tables of the example."""


class Call(Base):
    """A call of a tenant; one that nobody answered has no length."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    seconds: Mapped[int | None]


SECRET = b"thirty-two bytes of a real secret"


async def main() -> None:
    """Walk through the calls of a tenant."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with AsyncSession(engine) as session:
        session.add_all(Call(tenant_id=1, seconds=each) for each in (30, None, 30, 10))
        mine = {"tenant_id": 1}
        request = PageRequest("-seconds", limit=2)
        page = await cursor_page(
            session, Call, mine, request=request, secret=SECRET, scope="1"
        )
        print([(call.id, call.seconds) for call in page.items])
        # > [(2, None), (3, 30)]

        request = PageRequest("-seconds", limit=2, cursor=page.next_cursor)
        page = await cursor_page(
            session, Call, mine, request=request, secret=SECRET, scope="1"
        )
        print([(call.id, call.seconds) for call in page.items], page.next_cursor)
        # > [(1, 30), (4, 10)] None

        try:
            await cursor_page(
                session, Call, mine, request=request, secret=SECRET, scope="2"
            )
        except CursorError as error:
            print(error)
            # > the cursor is not valid here
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
