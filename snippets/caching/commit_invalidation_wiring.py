"""Wire it into FastAPI: what a request changed is invalidated before it is answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.caching.cached import Cache, cached
from snippets.caching.commit_invalidation import (
    CommitInvalidation,
    invalidate_on_commit,
)
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.redis_client import create_redis
from snippets.database.async_session import (
    SessionDep,
    create_engine_and_sessions,
    session_scope,
)

TTL = 300


class Base(DeclarativeBase):
    """The tables of this service."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def create_app(database_url: str | URL, redis_url: str) -> FastAPI:
    """Return an application whose cached answers follow its commits."""

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
    cache = Cache(client=lambda: app.state.redis, namespace="telephony:1")

    @cached(cache, ttl=TTL, vary=None)
    async def name_of(user_id: int) -> str:
        async with session_scope(app.state.sessions) as session:
            return (await session.get_one(User, user_id)).name

    async def invalidate(*keys: str) -> None:
        async with app.state.redis.pipeline(transaction=False) as pipeline:
            entries = GuardedEntries(client=lambda: pipeline, ttl=TTL)
            for key in keys:
                await entries.invalidate(key)
            await pipeline.execute()

    invalidation = CommitInvalidation(invalidate=invalidate)

    @app.get("/users/{user_id}/name")
    async def show(user_id: int) -> str:
        return await name_of(user_id)

    @app.put("/users/{user_id}/name", status_code=204)
    async def rename(user_id: int, name: str, session: SessionDep) -> None:
        (await session.get_one(User, user_id)).name = name
        invalidate_on_commit(session, name_of.key(user_id))

    return app
