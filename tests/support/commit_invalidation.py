"""A database whose commits invalidate, and what its users' names are cached in."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.caching.codec import Codec
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.read_through import ReadThrough
from snippets.database.async_session import create_engine_and_sessions, session_scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

    Sessions = async_sessionmaker[AsyncSession]

TTL = 300
TAG = "user:7"


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@dataclass
class Calls:
    """Remembers with which tags it was called, and then does what it is told to."""

    tags: list[tuple[str, ...]] = field(default_factory=list)
    then: Callable[[], Awaitable[object]] | None = None

    async def __call__(self, *tags: str) -> None:
        """Remember."""
        self.tags.append(tags)
        if self.then is not None:
            await self.then()


@dataclass
class Names:
    """The names of users, cached under keys that are their tags."""

    redis: Redis
    namespace: str
    sessions: Sessions

    def __post_init__(self) -> None:
        """Keep them for some minutes."""
        entries = GuardedEntries(client=lambda: self.redis, ttl=TTL)
        self.cache = ReadThrough(name="names", codec=Codec[str](str), entries=entries)

    def key(self, tag: str) -> str:
        """Return the Redis key of a tag."""
        return f"{self.namespace}:{tag}"

    async def load(self) -> str:
        """Read Ada's name from the database, in a transaction of its own."""
        async with session_scope(self.sessions) as session:
            return (await session.get_one(User, 7)).name

    async def get(self) -> str:
        """Read Ada's name through the cache."""
        return await self.cache.get(self.key(TAG), self.load)

    async def invalidate(self, *tags: str) -> None:
        """Mark the entries of all tags in one round trip."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            entries = GuardedEntries(client=lambda: pipeline, ttl=TTL)
            for tag in tags:
                await entries.invalidate(self.key(tag))
            await pipeline.execute()


@asynccontextmanager
async def database_with_ada(url: str) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """Yield an engine and sessions on a database with one user."""
    engine, sessions = create_engine_and_sessions(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with session_scope(sessions) as session:
        session.add(User(id=7, name="Ada"))
    yield engine, sessions
    await engine.dispose()


async def rename(session: AsyncSession, name: str = "Ada Lovelace") -> None:
    """Change Ada's name in the database."""
    (await session.get_one(User, 7)).name = name
    await session.flush()
