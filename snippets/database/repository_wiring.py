"""Wire a repository into FastAPI: one per request, its errors as client errors."""

import json
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import SessionDep
from snippets.database.conflict import ConflictError
from snippets.database.filters import AnyOf, Contains, FieldError
from snippets.database.repository import BaseRepository

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL stores every character but this one."""
LAST_KEY = 2**31 - 1


class Base(DeclarativeBase):
    """The tables of this service."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("email", name="uq_users_email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]


class UserOut(BaseModel):
    """What a client is told about a user."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    email: str
    name: str


class UserPage(BaseModel):
    """What a client is told about many users."""

    model_config = ConfigDict(from_attributes=True)

    items: list[UserOut]
    has_more: bool
    total: int | None


class UserChange(BaseModel):
    """What a client may change of a user; a field that is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, StringConstraints(max_length=254, pattern=NO_NUL)] = ""
    name: Annotated[str, StringConstraints(max_length=100, pattern=NO_NUL)] = ""


class UserRepository(BaseRepository[User]):
    """The users."""

    def __init__(self, session: SessionDep) -> None:
        """Work in the transaction of the request."""
        super().__init__(User, session)


Users = Annotated[UserRepository, Depends()]
"""The parameter of an endpoint."""


def add_users(app: FastAPI) -> None:
    """Give an application that has sessions in its state two endpoints for users."""

    @app.get("/users")
    async def list_users(
        users: Users,
        q: Annotated[str, Query(max_length=100, pattern=NO_NUL)] = "",
        sort: Annotated[str, Query(max_length=100)] = "",
        limit: Annotated[int, Query(ge=1, le=UserRepository.max_limit)] = 20,
        offset: Annotated[int, Query(ge=0, le=LAST_KEY)] = 0,
    ) -> UserPage:
        text = Contains(q)
        either = AnyOf([{"email": text}, {"name": text}])
        page = await users.list(either, order_by=sort, limit=limit, offset=offset)
        return UserPage.model_validate(page)

    @app.patch("/users/{key}")
    async def change_user(
        key: Annotated[int, Path(ge=1, le=LAST_KEY)], change: UserChange, users: Users
    ) -> UserOut:
        user = await users.update(key, **change.model_dump(exclude_unset=True))
        if user is None:
            raise HTTPException(404, "no such user")
        return UserOut.model_validate(user)

    @app.exception_handler(FieldError)
    async def refuse_field(_: Request, error: FieldError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.exception_handler(ConflictError)
    async def report_conflict(_: Request, conflict: ConflictError) -> JSONResponse:
        return JSONResponse({"detail": str(conflict)}, status_code=409)

    @app.exception_handler(RequestValidationError)
    async def refuse_request(_: Request, error: RequestValidationError) -> Response:
        # Without the values: not all that a client can send has a form in a response.
        told = [{k: each[k] for k in ("loc", "msg")} for each in error.errors()]
        return Response(
            json.dumps({"detail": told}), 422, media_type="application/json"
        )
