"""What the repository costs beside SQLAlchemy by hand and beside two libraries.

All ways share one session per backend, whose transaction is rolled back before each
timed stretch. Results are dropped at once, so that the session never holds the row that
is asked for next. Each write ends with the row as it is now in the caller's hands.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from fastcrud import FastCRUD
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.bench import Case, compare
from snippets.database.async_session import create_engine_and_sessions
from snippets.database.repository import BaseRepository
from tests.support.databases import (
    postgresql_database,
    postgresql_version,
    sqlite_database,
)

ROWS = 2_000
TENANT = 7
PAGE = 20
SKIPPED = 40

Rows = Sequence[object]
Counted = tuple[Rows, int | None]


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


class _StoredUser(_NewUser):
    id: int
    created_at: datetime


class _Way(Protocol):
    """One way of doing what the repository does."""

    async def get(self, key: int) -> object: ...
    async def page(self) -> Rows: ...
    async def page_and_total(self) -> Counted: ...
    async def create(self, email: str) -> object: ...
    async def update(self, key: int, name: str) -> object: ...
    async def delete(self, key: int) -> object: ...


class _Orm:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, key: int) -> object:
        return await self.session.get(_User, key)

    async def page(self) -> Rows:
        query = sa.select(_User).where(_User.tenant_id == TENANT)
        query = query.order_by(_User.email, _User.id).limit(PAGE).offset(SKIPPED)
        return (await self.session.scalars(query)).all()

    async def page_and_total(self) -> Counted:
        query = sa.select(sa.func.count()).where(_User.tenant_id == TENANT)
        return await self.page(), await self.session.scalar(query)

    async def create(self, email: str) -> object:
        user = _User(tenant_id=TENANT, email=email, name="Grace")
        self.session.add(user)
        await self.session.flush()
        return user

    async def update(self, key: int, name: str) -> object:
        user = await self.session.get_one(_User, key)
        user.name = name
        await self.session.flush()
        return user

    async def delete(self, key: int) -> object:
        await self.session.delete(await self.session.get_one(_User, key))
        await self.session.flush()
        return True


class _OrmInSavepoint(_Orm):
    """The same writes, so that a conflict spares the transaction as it does ours."""

    async def create(self, email: str) -> object:
        async with self.session.begin_nested():
            return await super().create(email)

    async def update(self, key: int, name: str) -> object:
        async with self.session.begin_nested():
            return await super().update(key, name)

    async def delete(self, key: int) -> object:
        async with self.session.begin_nested():
            return await super().delete(key)


class _Core:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def _rows(self, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
        connection = await self.session.connection()
        return (await connection.execute(statement)).all()

    async def get(self, key: int) -> object:
        return (await self._rows(sa.select(USERS).where(USERS.c.id == key)))[0]

    async def page(self) -> Rows:
        query = sa.select(USERS).where(USERS.c.tenant_id == TENANT)
        query = query.order_by(USERS.c.email, USERS.c.id).limit(PAGE).offset(SKIPPED)
        return await self._rows(query)

    async def page_and_total(self) -> Counted:
        query = sa.select(sa.func.count()).where(USERS.c.tenant_id == TENANT)
        return await self.page(), (await self._rows(query))[0][0]

    async def create(self, email: str) -> object:
        values = {"tenant_id": TENANT, "email": email, "name": "Grace"}
        insert = sa.insert(USERS).values(values)
        return (await self._rows(insert.returning(USERS)))[0]

    async def update(self, key: int, name: str) -> object:
        change = sa.update(USERS).where(USERS.c.id == key).values(name=name)
        return (await self._rows(change.returning(USERS)))[0]

    async def delete(self, key: int) -> object:
        gone = sa.delete(USERS).where(USERS.c.id == key)
        return await self._rows(gone.returning(USERS.c.id))


class _Ours:
    def __init__(self, session: AsyncSession) -> None:
        self.users = BaseRepository(_User, session)

    async def get(self, key: int) -> object:
        return await self.users.get(key)

    async def page(self) -> Rows:
        mine = {"tenant_id": TENANT}
        page = await self.users.list(mine, order_by="email", limit=PAGE, offset=SKIPPED)
        return page.items

    async def page_and_total(self) -> Counted:
        mine = {"tenant_id": TENANT}
        page = await self.users.list(
            mine, order_by="email", limit=PAGE, offset=SKIPPED, with_total=True
        )
        return page.items, page.total

    async def create(self, email: str) -> object:
        return await self.users.create(tenant_id=TENANT, email=email, name="Grace")

    async def update(self, key: int, name: str) -> object:
        return await self.users.update(key, name=name)

    async def delete(self, key: int) -> object:
        return await self.users.delete(key)


class _AdvancedAlchemy:
    def __init__(self, session: AsyncSession) -> None:
        class Users(SQLAlchemyAsyncRepository[Any]):
            model_type = _User

        self.users = Users(session=session)
        window = LimitOffset(limit=PAGE, offset=SKIPPED)
        self.filters = OrderBy("email"), OrderBy("id"), window

    async def get(self, key: int) -> object:
        return await self.users.get(key)

    async def page(self) -> Rows:
        return await self.users.get_many(*self.filters, tenant_id=TENANT)

    async def page_and_total(self) -> Counted:
        return await self.users.get_many_and_count(*self.filters, tenant_id=TENANT)

    async def create(self, email: str) -> object:
        user = _User(tenant_id=TENANT, email=email, name="Grace")
        return await self.users.add(user)

    async def update(self, key: int, name: str) -> object:
        return await self.users.update(_User(id=key, name=name))

    async def delete(self, key: int) -> object:
        return await self.users.delete(key)


class _FastCrud:
    """It gives dictionaries instead of instances."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.users: FastCRUD[Any, Any, Any, Any, Any, Any] = FastCRUD(_User)

    async def get(self, key: int) -> object:
        return await self.users.get(self.session, id=key)

    async def page(self) -> Rows:
        rows, _ = await self._page(total=False)
        return rows

    async def page_and_total(self) -> Counted:
        return await self._page(total=True)

    async def _page(self, *, total: bool) -> Counted:
        found = await self.users.get_multi(
            self.session,
            offset=SKIPPED,
            limit=PAGE,
            sort_columns=["email", "id"],
            return_total_count=total,
            tenant_id=TENANT,
        )
        return found["data"], found.get("total_count")

    async def create(self, email: str) -> object:
        new = _NewUser(tenant_id=TENANT, email=email, name="Grace")
        return await self.users.create(
            self.session, new, commit=False, schema_to_select=_StoredUser
        )

    async def update(self, key: int, name: str) -> object:
        columns = list(_StoredUser.model_fields)
        return await self.users.update(
            self.session, {"name": name}, commit=False, return_columns=columns, id=key
        )

    async def delete(self, key: int) -> object:
        await self.users.db_delete(self.session, commit=False, id=key)
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
        await compare("database/repository", cases, servers=servers)


async def _fill(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(_Base.metadata.create_all)
        rows = [
            {"tenant_id": TENANT, "email": f"{n}@example.com", "name": "Ada"}
            for n in range(ROWS)
        ]
        await connection.execute(sa.insert(_User), rows)


def _cases(backend: str, session: AsyncSession) -> list[Case]:
    ways: dict[str, _Way] = {
        "hand-written ORM": _Orm(session),
        "hand-written ORM in begin_nested": _OrmInSavepoint(session),
        "hand-written Core": _Core(session),
        "BaseRepository": _Ours(session),
        "advanced-alchemy": _AdvancedAlchemy(session),
        "fastcrud": _FastCrud(session),
    }
    return [
        case for name, way in ways.items() for case in _of(backend, session, name, way)
    ]


def _of(backend: str, session: AsyncSession, name: str, way: _Way) -> list[Case]:
    keys = count(1)
    new = count()

    async def start() -> None:
        nonlocal keys
        keys = count(1)
        await session.rollback()
        await session.connection()

    def case(
        operation: str,
        run: Callable[[], Awaitable[object]],
        expect: Callable[[Any], bool] = bool,
    ) -> Case:
        return Case(
            group=f"{operation}, {backend}",
            name=name,
            run=run,
            setup=start,
            expect=expect,
            floor=name == "hand-written ORM",
            ours=name == "BaseRepository",
        )

    writes = [
        case("create", lambda: way.create(f"new-{next(new)}@example.com")),
        case("update", lambda: way.update(next(keys), f"Grace {next(new)}")),
        case("delete", lambda: way.delete(next(keys))),
    ]
    if isinstance(way, _OrmInSavepoint):
        return writes
    return [
        case("get", lambda: way.get(next(keys))),
        case("page", way.page, lambda rows: len(rows) == PAGE),
        case(
            "page with total",
            way.page_and_total,
            lambda found: (len(found[0]), found[1]) == (PAGE, ROWS),
        ),
        *writes,
    ]


if __name__ == "__main__":
    asyncio.run(main())
