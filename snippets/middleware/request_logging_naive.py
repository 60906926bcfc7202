"""The request log that most services write first."""

import json
import logging
import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

logger = logging.getLogger(__name__)
SENSITIVE = {"password", "secret", "token", "authorization", "api_key"}


def add_request_log(app: FastAPI) -> None:
    """Log each request with its body, and mask the sensitive fields."""

    @app.middleware("http")
    async def log_request(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        began = time.time()
        body = await request.body()
        shown = body.decode(errors="replace")[:10_240]
        if request.headers.get("content-type") == "application/json":
            data = json.loads(body)
            shown = json.dumps({k: "***" if k in SENSITIVE else data[k] for k in data})
        forwarded = request.headers.get("X-Forwarded-For", "").split(",")[0]
        client = forwarded or (request.client and request.client.host)
        response = await call_next(request)
        took = time.time() - began
        words = client, request.method, request.url, shown, response.status_code
        logger.info("%s %s %s %s %s %.3f s", *words, took)
        return response
