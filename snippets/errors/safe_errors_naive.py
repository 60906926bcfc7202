"""A handler for everything, which says what happened."""

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

logger = logging.getLogger(__name__)


def install_safety_net(app: FastAPI) -> None:
    """Answer unhandled exceptions with what they say, and log them."""

    @app.exception_handler(Exception)
    async def answer(request: Request, error: Exception) -> JSONResponse:
        logger.error("error in %s: %s", request.url.path, error)
        return JSONResponse({"status": 500, "detail": str(error)}, 500)
