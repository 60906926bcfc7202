"""Return what the framework knows of a validation error, and log it."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

logger = logging.getLogger(__name__)


def install_validation_handler(app: FastAPI) -> None:
    """Answer invalid requests with the list of errors."""

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        logger.warning("invalid request to %s: %s", request.url.path, error.errors())
        return JSONResponse({"status": 422, "errors": error.errors()}, 422)
