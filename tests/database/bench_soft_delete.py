"""What soft deletion costs beside SQLAlchemy by hand and beside two libraries.

All ways work on the same table, in transactions that are rolled back before each timed
stretch, and drop what they are given, so that no session holds the row asked for next.
advanced-alchemy has no soft deletion, so its way is an update.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from fastcrud import FastCRUD
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.bench import Case, compare
from snippets.database.async_session import create_engine_and_sessions
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    install_soft_delete,
    soft_delete,
    unique_live,
)
from tests.support.databases import (
    postgresql_database,
    postgresql_version,
    sqlite_database,
)

ROWS = 2_000
PAGE = 20
ACTOR = "ada"


class Base(DeclarativeBase):
    """The table of the benchmark."""


class User(SoftDeleteMixin, Base):
    """A user whose address is nobody else's."""

    __tablename__ = "users"
    __table_args__ = (unique_live("uq_users_email", "email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Way(Protocol):
    """One way of working with rows that may be deleted."""

    async def delete(self, key: int) -> object:
        """Delete a user."""

    async def get(self, key: int) -> object:
        """Return a user who is not deleted."""

    async def page(self) -> Sequence[object]:
        """Return the first users who are not deleted."""


class Orm:
    """The floor: what one writes with SQLAlchemy's ORM."""

    def __init__(self, session: AsyncSession) -> None:
        """Work in a session."""
        self.session = session

    async def delete(self, key: int) -> object:
        """Delete a user."""
        user = await self.session.get_one(User, key)
        user.deleted_at = datetime.now(UTC)
        user.deleted_by = ACTOR
        await self.session.flush()
        return True

    async def get(self, key: int) -> object:
        """Return a user who is not deleted."""
        user = await self.session.get(User, key)
        return user if user is not None and user.deleted_at is None else None

    async def page(self) -> Sequence[object]:
        """Return the first users who are not deleted."""
        live = sa.select(User).where(User.deleted_at.is_(None))
        return (await self.session.scalars(live.order_by(User.id).limit(PAGE))).all()


class Ours:
    """The pattern."""

    def __init__(self, session: AsyncSession) -> None:
        """Work in a session."""
        self.session = session

    async def delete(self, key: int) -> object:
        """Delete a user."""
        return await soft_delete(self.session, User, key)

    async def get(self, key: int) -> object:
        """Return a user who is not deleted."""
        return await self.session.get(User, key)

    async def page(self) -> Sequence[object]:
        """Return the first users who are not deleted."""
        users = sa.select(User).order_by(User.id).limit(PAGE)
        return (await self.session.scalars(users)).all()


class AdvancedAlchemy:
    """advanced-alchemy's repository."""

    class Users(SQLAlchemyAsyncRepository[User]):
        """The users."""

        model_type = User

    def __init__(self, session: AsyncSession) -> None:
        """Work in a session."""
        self.users = self.Users(session=session)

    async def delete(self, key: int) -> object:
        """Delete a user."""
        gone = User(id=key, deleted_at=datetime.now(UTC), deleted_by=ACTOR)
        return await self.users.update(gone)

    async def get(self, key: int) -> object:
        """Return a user who is not deleted."""
        return await self.users.get_one_or_none(User.deleted_at.is_(None), id=key)

    async def page(self) -> Sequence[object]:
        """Return the first users who are not deleted."""
        return await self.users.get_many(
            User.deleted_at.is_(None), OrderBy("id"), LimitOffset(PAGE, 0)
        )


class Crud:
    """fastcrud, which gives dictionaries, and keeps no actor."""

    def __init__(self, session: AsyncSession) -> None:
        """Work in a session."""
        self.session = session
        self.users: FastCRUD[Any, Any, Any, Any, Any, Any] = FastCRUD(User)

    async def delete(self, key: int) -> object:
        """Delete a user."""
        await self.users.delete(self.session, commit=False, id=key)
        return True

    async def get(self, key: int) -> object:
        """Return a user who is not deleted."""
        return await self.users.get(self.session, id=key, deleted_at=None)

    async def page(self) -> Sequence[object]:
        """Return the first users who are not deleted."""
        found = await self.users.get_multi(
            self.session,
            limit=PAGE,
            sort_columns=["id"],
            return_total_count=False,
            deleted_at=None,
        )
        users: Sequence[object] = found["data"]
        return users


WAYS: dict[str, type[Orm | Ours | AdvancedAlchemy | Crud]] = {
    "hand-written ORM": Orm,
    "soft_delete": Ours,
    "advanced-alchemy": AdvancedAlchemy,
    "fastcrud": Crud,
}


async def main() -> None:
    """Measure on SQLite and on PostgreSQL, and write the result file."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases: list[Case] = []
        for backend, database in (
            ("SQLite", sqlite_database(folder)),
            ("PostgreSQL", postgresql_database()),
        ):
            url = await stack.enter_async_context(database)
            engine, sessions = create_engine_and_sessions(url)
            install_soft_delete(sessions, actor=lambda: ACTOR)
            stack.push_async_callback(engine.dispose)
            await _fill(engine)
            plain = AsyncSession(engine, expire_on_commit=False)
            pair = (plain, sessions())
            for session in pair:
                await stack.enter_async_context(session)
            for name, way in WAYS.items():
                cases += _cases(backend, name, pair, way(pair[way is Ours]))
        servers = {
            "SQLite": sqlite3.sqlite_version,
            "PostgreSQL": await postgresql_version(),
        }
        await compare("database/soft_delete", cases, servers=servers)


async def _fill(engine: AsyncEngine) -> None:
    rows = [{"id": n, "email": f"{n}@example.com"} for n in range(1, ROWS + 1)]
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(sa.insert(User), rows)
        # Without statistics PostgreSQL reads all of a partial index for one row.
        await connection.execute(sa.text("ANALYZE"))


def _cases(
    backend: str, name: str, sessions: tuple[AsyncSession, ...], way: Way
) -> list[Case]:
    keys = count(1)

    async def start() -> None:
        nonlocal keys
        for session in sessions:  # only one may write to SQLite
            await session.rollback()
        keys = count(1)

    async def delete() -> object:
        return await way.delete(next(keys))

    async def get() -> object:
        return await way.get(next(keys))

    return [
        Case(
            group=f"{operation}, {backend}",
            name=name,
            run=run,
            setup=start,
            expect=expect,
            floor=isinstance(way, Orm),
            ours=isinstance(way, Ours),
        )
        for operation, run, expect in (
            ("soft delete", delete, bool),
            ("get", get, bool),
            ("page", way.page, lambda page: len(page) == PAGE),
        )
    ]


if __name__ == "__main__":
    asyncio.run(main())
