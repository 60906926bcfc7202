"""Problem details as a dictionary that the exception may add to."""

from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse


class ProblemException(HTTPException):
    """An HTTPException that carries further members."""

    def __init__(self, status: int, detail: str, extra: dict[str, object]) -> None:
        """Keep the further members."""
        super().__init__(status, detail)
        self.extra = extra


def install_problem_handlers(app: FastAPI) -> None:
    """Answer with the members of RFC 7807."""

    @app.exception_handler(HTTPException)
    async def answer(request: Request, error: HTTPException) -> JSONResponse:
        base = {
            "type": "about:blank",
            "title": HTTPStatus(error.status_code).phrase,
            "status": error.status_code,
            "detail": error.detail,
            "instance": str(request.url),
        }
        extra = getattr(error, "extra", {})
        return JSONResponse({**base, **extra}, error.status_code)
