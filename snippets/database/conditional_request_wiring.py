"""Wire conditional requests into FastAPI: tags out, preconditions in, and their errors.

It takes the model, and who comes second between check and write, from the wiring of the
optimistic lock.
"""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from snippets.database.async_session import SessionDep
from snippets.database.conditional_request import (
    PreconditionFailedError,
    PreconditionRequiredError,
    TagSyntaxError,
    check_if_match,
    etag,
    is_not_modified,
)
from snippets.database.optimistic_lock import delete_unchanged
from snippets.database.optimistic_lock_wiring import (
    Extension,
    Key,
    Target,
    report_conflicts,
)
from snippets.database.repository import BaseRepository

STATUS: dict[type[Exception], int] = {
    TagSyntaxError: 400,
    PreconditionFailedError: 412,
    PreconditionRequiredError: 428,
}


class Forwarding(BaseModel):
    """What a client reads and writes of an extension."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    forwards_to: Target


def header(request: Request, name: str) -> str | None:
    """Return a header whose lines together are one list, or None without a line."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


async def found(key: Key, session: SessionDep) -> Extension:
    """Return the extension, without which a precondition would not even be read."""
    extension = await BaseRepository(Extension, session).get(key)
    if extension is None:
        raise HTTPException(404, "no such extension")
    return extension


def require_seen(request: Request, extension: Extension) -> None:
    """Refuse a write by a client that has not seen the extension as it is."""
    check_if_match(header(request, "if-match"), etag(extension.version))


def add_extensions(app: FastAPI) -> None:
    """Give an application that has sessions in its state the extensions."""
    report_conflicts(app)

    @app.get("/extensions/{key}", response_model=Forwarding)
    async def show(
        request: Request,
        response: Response,
        extension: Annotated[Extension, Depends(found)],
    ) -> Response | Extension:
        headers = {"etag": etag(extension.version), "cache-control": "no-cache"}
        if is_not_modified(header(request, "if-none-match"), headers["etag"]):
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return extension

    @app.put("/extensions/{key}", response_model=Forwarding)
    async def save(
        request: Request,
        form: Forwarding,
        response: Response,
        extension: Annotated[Extension, Depends(found)],
        session: SessionDep,
    ) -> Extension:
        require_seen(request, extension)
        extension.forwards_to = form.forwards_to
        await session.flush()  # at the version that was checked, or not at all
        response.headers["etag"] = etag(extension.version)
        return extension

    @app.delete("/extensions/{key}", status_code=204)
    async def remove(
        request: Request,
        extension: Annotated[Extension, Depends(found)],
        session: SessionDep,
    ) -> None:
        require_seen(request, extension)
        await delete_unchanged(session, extension)

    async def refuse(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, STATUS[type(error)])

    for kind in STATUS:
        app.add_exception_handler(kind, refuse)
