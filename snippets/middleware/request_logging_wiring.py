"""Wire the request log into FastAPI: JSON lines, with the ids of the request."""

import json
import logging

from fastapi import APIRouter, FastAPI

from snippets.middleware.client_address import Networks
from snippets.middleware.header_context import (
    ASGIApp,
    HeaderContextFilter,
    RequestIDMiddleware,
)
from snippets.middleware.http_metrics import route_template
from snippets.middleware.request_logging import LogOptions, RequestLoggingMiddleware


class JsonLines(logging.Formatter):
    """One line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return what was said, by whom and for which request."""
        line = {
            "level": record.levelname,
            "message": record.getMessage(),
            "request_id": vars(record).get("request_id"),
            "access": vars(record).get("access"),
        }
        return json.dumps(line)


def log_in_lines(handler: logging.Handler) -> None:
    """Have a handler of the root logger write JSON lines."""
    handler.addFilter(HeaderContextFilter())
    handler.setFormatter(JsonLines())


def create_app(*, trusted_proxies: Networks = ()) -> ASGIApp:
    """Return a service of calls whose health checks are not logged."""
    app = FastAPI()
    calls = APIRouter(prefix="/calls")

    @calls.get("/{call_id}")
    async def show(call_id: int) -> int:
        logging.getLogger(__name__).info("call %d is shown", call_id)
        return call_id

    @app.get("/health")
    async def health() -> str:
        return "well"

    app.include_router(calls, prefix="/v1")
    options = LogOptions(
        exempt=["/health"], trusted_proxies=trusted_proxies, route=route_template
    )
    return RequestIDMiddleware(RequestLoggingMiddleware(app, options))
