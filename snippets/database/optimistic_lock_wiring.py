"""Wire the optimistic lock into FastAPI: who comes second is told so."""

import json
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.async_session import SessionDep
from snippets.database.optimistic_lock import VersionMixin
from snippets.database.repository import BaseRepository

Key = Annotated[int, Path(ge=1, le=2**31 - 1)]
Target = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]


class Base(DeclarativeBase):
    """The tables of this service."""


class Extension(VersionMixin, Base):
    """Where a number forwards its calls to."""

    __tablename__ = "extensions"

    id: Mapped[int] = mapped_column(primary_key=True)
    forwards_to: Mapped[str]


class Form(BaseModel):
    """What a client was shown of an extension, and sends back changed."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    version: Annotated[int, Field(ge=1, le=2**63 - 1)]
    forwards_to: Target


def add_extensions(app: FastAPI) -> None:
    """Give an application that has sessions in its state a form for extensions."""

    @app.get("/extensions/{key}")
    async def show(key: Key, session: SessionDep) -> Form:
        extension = await BaseRepository(Extension, session).get(key)
        if extension is None:
            raise HTTPException(404, "no such extension")
        return Form.model_validate(extension)

    @app.put("/extensions/{key}")
    async def save(key: Key, form: Form, session: SessionDep) -> Form:
        extensions = BaseRepository(Extension, session)
        try:
            extension = await extensions.update(key, **form.model_dump())
        except StaleDataError:
            if await extensions.exists({"id": key}):
                raise
            raise HTTPException(404, "no such extension") from None
        return Form.model_validate(extension)


def report_conflicts(app: FastAPI) -> None:
    """Have an application tell the second of two writers, and who sends no form."""

    @app.exception_handler(StaleDataError)
    async def report(request: Request, _: StaleDataError) -> JSONResponse:
        status = 412 if "if-match" in request.headers else 409
        detail = "somebody else changed or deleted it meanwhile: read it again"
        return JSONResponse({"detail": detail}, status)

    @app.exception_handler(RequestValidationError)
    async def refuse_request(_: Request, error: RequestValidationError) -> Response:
        # Without the values: not all that a client can send has a form in a response.
        told = [{k: each[k] for k in ("loc", "msg")} for each in error.errors()]
        return Response(
            json.dumps({"detail": told}), 422, media_type="application/json"
        )
