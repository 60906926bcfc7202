"""Wire sessions into FastAPI: one engine per process, one unit of work per request."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import SessionDep, create_engine_and_sessions

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL stores every character but this one."""


class Base(DeclarativeBase):
    """The tables of this service."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


class NewUser(BaseModel):
    """What a client sends to create a user."""

    email: Annotated[
        str, StringConstraints(min_length=3, max_length=254, pattern=NO_NUL)
    ]


class UserOut(NewUser):
    """What a client is told about a user."""

    model_config = ConfigDict(from_attributes=True)

    id: int


def create_app(url: str | URL) -> FastAPI:
    """Return an application whose engine lives from its start-up to its shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine, app.state.sessions = create_engine_and_sessions(url)
        try:
            yield
        finally:
            await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/users", status_code=201)
    async def create_user(new: NewUser, session: SessionDep) -> UserOut:
        user = User(email=new.email)
        session.add(user)
        await session.flush()  # the database gives the id; the commit comes afterwards
        return UserOut.model_validate(user)

    @app.exception_handler(RequestValidationError)
    async def refuse_request(_: Request, error: RequestValidationError) -> Response:
        # Without the values: not all that a client can send has a form in a response.
        told = [{k: each[k] for k in ("loc", "msg")} for each in error.errors()]
        return Response(
            json.dumps({"detail": told}), 422, media_type="application/json"
        )

    return app
