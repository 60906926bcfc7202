"""Wire all error patterns into one service; what gives ids goes around it."""

from uuid import UUID

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.types import ASGIApp

from snippets.database.async_session import SessionDep
from snippets.errors.error_registry import AppError, ErrorCode
from snippets.errors.error_registry_wiring import create_registry
from snippets.errors.problem_client import ProblemError, raise_for_problem
from snippets.errors.problem_details import install_problem_handlers
from snippets.errors.problem_openapi import document_problems
from snippets.errors.safe_errors import install_safety_net
from snippets.errors.validation_problems import install_validation_handler

Sessions = async_sessionmaker[AsyncSession]


class NoCallError(AppError):
    """Somebody asked for a call that never took place."""

    code = ErrorCode("/problems/no-call", 404, "There is no such call", ("id",))


class UnknownUserError(ProblemError):
    """What the directory answers if it does not know a user."""


class DirectoryError(AppError):
    """The directory does not answer, or not what it should."""

    code = ErrorCode(
        "/problems/directory",
        503,
        "Users cannot be looked up",
        headers={"Retry-After": "5"},
    )


class Base(DeclarativeBase):
    """The tables of this service."""


class CallRow(Base):
    """A call, whose id the telephone chose."""

    __tablename__ = "calls"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    seconds: Mapped[float]


class Call(BaseModel, from_attributes=True):
    """A call as clients send and see it."""

    id: UUID
    seconds: float = Field(ge=0, allow_inf_nan=False)


def create_app(sessions: Sessions, directory: httpx.AsyncClient) -> ASGIApp:
    """Return what the server runs; `directory` is where users are looked up."""
    hook = raise_for_problem({"/problems/unknown-user": UnknownUserError})
    directory.event_hooks["response"].append(hook)
    app = FastAPI(max_body_size=16 * 1024)
    app.state.sessions = sessions
    install_problem_handlers(app)
    install_validation_handler(app)
    registry = create_registry(NoCallError.code, DirectoryError.code)
    registry.install(app)
    document_problems(app, registry)
    app.get("/problems")(registry.types)

    @app.get("/calls/{key}")
    async def show(key: UUID, session: SessionDep) -> Call:
        if row := await session.get(CallRow, key):
            return Call.model_validate(row)
        raise NoCallError(id=key)

    @app.post("/users/{user}/calls", status_code=204)
    async def store(user: UUID, call: Call, session: SessionDep) -> None:
        try:
            await directory.get(f"/users/{user}")
        except UnknownUserError as error:
            raise HTTPException(409, "The directory knows no such user") from error
        except (ProblemError, httpx.TransportError) as error:
            raise DirectoryError from error
        session.add(CallRow(**call.model_dump()))

    return install_safety_net(app, environment="production")
