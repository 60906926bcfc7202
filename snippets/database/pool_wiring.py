"""Wire a bounded pool into FastAPI: checked at start-up, 503 when it is exhausted."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from sqlalchemy import exc

from snippets.database.async_session import create_engine_and_sessions
from snippets.database.pool import PoolSettings, instrument_pool


def create_app(
    url: str, settings: PoolSettings, registry: CollectorRegistry
) -> FastAPI:
    """Return an application that starts only if the server has room for its workers."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        options = settings.engine_options(url)
        engine, app.state.sessions = create_engine_and_sessions(url, **options)
        instrument_pool(engine, registry)
        try:
            await settings.check_capacity(engine)
            yield
        finally:
            await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.exception_handler(exc.TimeoutError)
    async def busy(_: Request, __: exc.TimeoutError) -> JSONResponse:
        return JSONResponse(
            {"status": 503, "title": "The service is busy"},
            status_code=503,
            headers={"Retry-After": str(math.ceil(settings.checkout_timeout))},
            media_type="application/problem+json",
        )

    return app
