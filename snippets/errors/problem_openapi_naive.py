"""Document problems with the `responses` of an application, one status at a time."""

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """The members of RFC 7807."""

    type: str
    title: str
    status: int
    detail: str | None = None


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem},
    401: {"model": Problem},
    404: {"model": Problem},
    409: {"model": Problem},
    500: {"model": Problem},
}
"""For `FastAPI(responses=PROBLEMS)`."""
