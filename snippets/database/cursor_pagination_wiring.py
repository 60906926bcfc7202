"""Wire cursors into FastAPI: a list of calls, and 400 for a cursor of another list."""

from typing import Annotated, Literal

from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import SessionDep
from snippets.database.cursor_pagination import (
    MAX_LIMIT,
    CursorError,
    PageRequest,
    cursor_page,
)

LAST_KEY = 2**31 - 1


class Base(DeclarativeBase):
    """The tables of this service."""


class Call(Base):
    """A call of a tenant."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    seconds: Mapped[int | None]


class CallOut(BaseModel):
    """What a client is told about a call."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    seconds: int | None


class CallPage(BaseModel):
    """What a client is told about many calls."""

    model_config = ConfigDict(from_attributes=True)

    items: list[CallOut]
    next_cursor: str | None
    previous_cursor: str | None


def add_calls(app: FastAPI, secret: bytes) -> None:
    """Give an application that has sessions in its state a list of calls."""

    @app.get("/tenants/{tenant_id}/calls")
    async def list_calls(
        session: SessionDep,
        tenant_id: Annotated[int, Path(ge=1, le=LAST_KEY)],
        sort: Literal["id", "-id", "seconds", "-seconds"] = "-seconds",
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 20,
        cursor: str | None = None,
    ) -> CallPage:
        page = await cursor_page(
            session,
            Call,
            {"tenant_id": tenant_id},
            request=PageRequest(sort, limit, cursor),
            secret=secret,
            scope=str(tenant_id),
        )
        return CallPage.model_validate(page)

    @app.exception_handler(CursorError)
    async def refuse_cursor(_: Request, error: CursorError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400)
