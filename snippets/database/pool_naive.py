"""An application with an engine as it comes, which is enough until it is busy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine


def create_app(url: str, **pool: float) -> FastAPI:
    """Return an application that works on `url`; `pool` is its size, if not default."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_async_engine(url, **pool)
        app.state.sessions = async_sessionmaker(engine)
        yield
        await engine.dispose()

    return FastAPI(lifespan=lifespan)
