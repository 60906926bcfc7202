"""What writing 1000 rows costs beside the unit of work, plain Core and two libraries.

All ways share one session per backend, whose transaction is rolled back before each
timed stretch; it then holds `ROWS` users, which the upserts meet. What a call leaves in
the session is dropped at once. Each way is given rows as dictionaries and makes of them
what it wants.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from fastcrud import FastCRUD
from pydantic import BaseModel
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.bench import Case, compare
from snippets.database.async_session import create_engine_and_sessions
from snippets.database.bulk_write import bulk_insert, upsert
from tests.support.databases import (
    postgresql_database,
    postgresql_version,
    sqlite_database,
)

ROWS = 1_000
TENANT = 7
ON = ["tenant_id", "email"]

Rows = list[dict[str, Any]]
Run = Callable[[Rows], Awaitable[object]]


class _Base(DeclarativeBase):
    pass


class _User(_Base):
    __tablename__ = "users"
    __table_args__ = (sa.UniqueConstraint("tenant_id", "email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    email: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


USERS = _Base.metadata.tables["users"]


class _NewUser(BaseModel):
    tenant_id: int
    email: str
    name: str


class _KeyedUser(_NewUser):
    id: int


class _Ways:
    """What each library is asked to do, on one session."""

    def __init__(self, session: AsyncSession) -> None:
        class Users(SQLAlchemyAsyncRepository[Any]):
            model_type = _User

        self.session = session
        self.users = Users(session=session)
        self.crud: FastCRUD[Any, Any, Any, Any, Any, Any] = FastCRUD(_User)

    async def orm_insert(self, rows: Rows) -> object:
        users = [_User(**row) for row in rows]
        self.session.add_all(users)
        await self.session.flush()
        return [user.id for user in users]

    async def orm_upsert(self, rows: Rows) -> object:
        emails = [row["email"] for row in rows]
        query = sa.select(_User).where(_User.tenant_id == TENANT)
        query = query.where(_User.email.in_(emails))
        found = {user.email: user for user in await self.session.scalars(query)}
        for row in rows:
            if user := found.get(row["email"]):
                user.name = row["name"]
            else:
                self.session.add(_User(**row))
        await self.session.flush()
        return len(found)

    async def core_insert(self, rows: Rows) -> object:
        connection = await self.session.connection()
        await connection.execute(sa.insert(USERS), rows)
        return True

    async def core_upsert(self, rows: Rows) -> object:
        connection = await self.session.connection()
        insert: postgresql.Insert | sqlite.Insert = postgresql.insert(USERS)
        if connection.dialect.name == "sqlite":
            insert = sqlite.insert(USERS)
        sets = {"name": insert.excluded.name}
        insert = insert.on_conflict_do_update(index_elements=ON, set_=sets)
        await connection.execute(insert, rows)
        return True

    async def our_insert(self, rows: Rows) -> object:
        return not await bulk_insert(self.session, _User, rows)

    async def our_insert_returning(self, rows: Rows) -> object:
        return await bulk_insert(self.session, _User, rows, returning=["id"])

    async def our_upsert(self, rows: Rows) -> object:
        return not await upsert(self.session, _User, rows, on=ON)

    async def alchemy_insert(self, rows: Rows) -> object:
        return await self.users.add_many([_User(**row) for row in rows])

    async def alchemy_upsert(self, rows: Rows) -> object:
        users = [_User(**row) for row in rows]
        return await self.users.upsert_many(users, match_fields=ON)

    async def crud_insert(self, rows: Rows) -> object:
        """Have one after the other created: it has nothing for many without a key."""
        for row in rows:
            await self.crud.create(self.session, _NewUser(**row), commit=False)
        return True

    async def crud_upsert(self, rows: Rows) -> object:
        """Name the primary key, which is the only target it has."""
        users = [_KeyedUser(id=number, **row) for number, row in enumerate(rows, 1)]
        await self.crud.upsert_multi(self.session, users, commit=False)
        return True


async def main() -> None:
    """Measure on SQLite and on PostgreSQL, and write the result file."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases: list[Case] = []
        for backend, database in (
            ("SQLite", sqlite_database(folder)),
            ("PostgreSQL", postgresql_database()),
        ):
            engine, _ = create_engine_and_sessions(
                await stack.enter_async_context(database)
            )
            stack.push_async_callback(engine.dispose)
            await _fill(engine)
            session = AsyncSession(engine, expire_on_commit=False)
            await stack.enter_async_context(session)
            cases += _cases(backend, session)
        servers = {
            "SQLite": sqlite3.sqlite_version,
            "PostgreSQL": await postgresql_version(),
        }
        await compare("database/bulk_write", cases, rounds=5, servers=servers)


async def _fill(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(_Base.metadata.create_all)
        await connection.execute(sa.insert(_User), _rows("old"))


def _rows(kind: str) -> Rows:
    return [
        {"tenant_id": TENANT, "email": f"{kind}-{number}@example.com", "name": kind}
        for number in range(ROWS)
    ]


def _cases(backend: str, session: AsyncSession) -> list[Case]:
    ways = _Ways(session)
    new = count()

    async def start() -> None:
        await session.rollback()
        session.expunge_all()
        await session.connection()

    def case(operation: str, name: str, run: Run, *, role: str = "") -> Case:
        async def once() -> object:
            number = next(new)
            rows = _rows("old" if operation == "upsert" else f"new-{number}")
            for row in rows:
                row["name"] = f"name {number}"
            result = await run(rows)
            session.expunge_all()
            return result

        return Case(
            group=f"{operation} 1000 rows, {backend}",
            name=name,
            run=once,
            setup=start,
            expect=bool,
            floor=role == "floor",
            ours=role == "ours",
        )

    return [
        case("insert", "hand-written ORM, add_all", ways.orm_insert, role="floor"),
        case("insert", "hand-written Core", ways.core_insert),
        case("insert", "bulk_insert", ways.our_insert, role="ours"),
        case(
            "insert",
            "bulk_insert returning keys",
            ways.our_insert_returning,
            role="ours",
        ),
        case("insert", "advanced-alchemy", ways.alchemy_insert),
        case("insert", "fastcrud", ways.crud_insert),
        case("upsert", "hand-written ORM", ways.orm_upsert, role="floor"),
        case("upsert", "hand-written Core", ways.core_upsert),
        case("upsert", "upsert", ways.our_upsert, role="ours"),
        case("upsert", "advanced-alchemy", ways.alchemy_upsert),
        case("upsert", "fastcrud", ways.crud_upsert),
    ]


if __name__ == "__main__":
    asyncio.run(main())
