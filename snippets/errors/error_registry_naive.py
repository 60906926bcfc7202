"""Application errors that bring their own status, and are dumped into the answer."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse


class AppError(Exception):
    """An error of this service."""

    status = 500

    def __init__(self, message: str, **context: object) -> None:
        """Keep whatever may help."""
        super().__init__(message)
        self.message = message
        vars(self).update(context)


class NotFoundError(AppError):
    """Something is not there."""

    status = 404


def install_handler(app: FastAPI) -> None:
    """Answer application errors with all that is known of them."""

    @app.exception_handler(AppError)
    async def answer(_: Request, error: AppError) -> JSONResponse:
        body = {"type": type(error).__name__, "status": error.status, **vars(error)}
        return JSONResponse(body, error.status)
