"""Wire ids into FastAPI: around the finished app, into its errors, logs and calls."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from snippets.middleware.header_context import (
    ASGIApp,
    CorrelationIDMiddleware,
    HeaderContextFilter,
    RequestIDMiddleware,
    forward_correlation_id,
)

logger = logging.getLogger(__name__)


def log_with_ids(handler: logging.Handler) -> None:
    """Have a handler of the root logger begin each line with both ids."""
    handler.addFilter(HeaderContextFilter())
    line = "%(request_id)s %(correlation_id)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(line))


async def report(request: Request, error: Exception) -> JSONResponse:
    """Answer with the id that support will ask for."""
    refused = isinstance(error, RequestValidationError)
    status = getattr(error, "status_code", 422 if refused else 500)
    headers = getattr(error, "headers", None)
    return JSONResponse(
        {"status": status, "request_id": request.state.request_id}, status, headers
    )


def create_app(billing: httpx.AsyncBaseTransport) -> ASGIApp:
    """Return a service of calls that asks the billing service for their price."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(
            base_url="http://billing",
            transport=billing,
            event_hooks={"request": [forward_correlation_id]},
        ) as app.state.billing:
            yield

    app = FastAPI(lifespan=lifespan)
    for kind in (HTTPException, RequestValidationError, 404, 405, Exception):
        app.add_exception_handler(kind, report)

    @app.get("/calls/{call_id}/price")
    async def price(call_id: int, after: BackgroundTasks) -> str:
        answer = await app.state.billing.get(f"/prices/{call_id}")
        if answer.is_error:
            raise HTTPException(502)
        after.add_task(logger.info, "the price of call %d was shown", call_id)
        return str(answer.text)

    return RequestIDMiddleware(CorrelationIDMiddleware(app))
