"""Wire it into FastAPI: cached teams have tags of their users, which commits use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy import URL, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.caching.cache_key import CacheKey
from snippets.caching.cache_manager import CacheManager
from snippets.caching.cached import Cached
from snippets.caching.codec import Codec
from snippets.caching.commit_invalidation import (
    CommitInvalidation,
    invalidate_on_commit,
)
from snippets.caching.read_through import ReadThrough
from snippets.caching.redis_client import create_redis
from snippets.database.async_session import (
    SessionDep,
    create_engine_and_sessions,
    session_scope,
)

NAMESPACE = "telephony:1"


class Base(DeclarativeBase):
    """The tables of this service."""


class User(Base):
    """Somebody with a telephone, in a team."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    team: Mapped[str]
    name: Mapped[str]


def create_app(database_url: str | URL, redis_url: str) -> FastAPI:
    """Return an application whose cached teams follow the changes of their users."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine, app.state.sessions = create_engine_and_sessions(database_url)
        invalidation.install(app.state.sessions)
        async with create_redis(redis_url) as app.state.redis:
            try:
                yield
            finally:
                await invalidation.drain()
                await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    manager = CacheManager(lambda: app.state.redis, NAMESPACE)
    invalidation = CommitInvalidation(invalidate=manager.invalidate_by_tags)

    async def members(team: str) -> dict[int, str]:
        async with session_scope(app.state.sessions) as session:
            found = await session.scalars(select(User).where(User.team == team))
            return {user.id: user.name for user in found}

    codec = Codec.of_result(members)

    def tags(_: str, payload: bytes) -> list[str]:
        return [f"user:{user_id}" for user_id in codec.decode(payload)]

    entries = manager.entries(ttl=300, tags=tags)
    results = ReadThrough(name="members", codec=codec, entries=entries)
    cached_members = Cached(members, CacheKey(members, NAMESPACE, vary=None), results)

    @app.get("/teams/{team}")
    async def show(team: str) -> list[str]:
        return sorted((await cached_members(team)).values())

    @app.put("/users/{user_id}/name", status_code=204)
    async def rename(user_id: int, name: str, session: SessionDep) -> None:
        (await session.get_one(User, user_id)).name = name
        invalidate_on_commit(session, f"user:{user_id}")

    return app
