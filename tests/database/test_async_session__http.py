"""A request's transaction ends before its response starts, however the request ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import ForeignKey, event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from catalogue.plugin import Proof
from snippets.database import async_session_naive as naive
from snippets.database.async_session import (
    SessionDep,
    SharedSessionError,
    session_scope,
)
from snippets.database.async_session_wiring import Base, User, create_app
from tests.support.pools import assert_pool_is_whole, checked_out, serve

NaiveSession = Annotated[AsyncSession, Depends(naive.get_session)]


class Extension(Base):
    """A number whose user the database looks for at the commit only."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(
        ForeignKey(User.id, deferrable=True, initially="DEFERRED")
    )


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[FastAPI]:
    """The wired application, running, on a database with its tables."""
    app = create_app(database_url)
    async with app.router.lifespan_context(app):
        async with engine_of(app).begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield app


@pytest.fixture
async def naive_app(app: FastAPI) -> FastAPI:
    """An application whose sessions are those of a plain factory."""
    naive_app = FastAPI()
    naive_app.state.sessions = async_sessionmaker(engine_of(app))
    return naive_app


def engine_of(app: FastAPI) -> AsyncEngine:
    """Return the engine that the application's sessions work on."""
    engine = app.state.sessions.kw["bind"]
    assert isinstance(engine, AsyncEngine)
    return engine


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that sees responses as a remote one does."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def emails(app: FastAPI) -> list[str]:
    """Return the addresses that are committed."""
    async with session_scope(app.state.sessions) as session:
        return list(await session.scalars(select(User.email)))


async def test_a_created_user_is_committed_and_told(app: FastAPI) -> None:
    async with client_of(app) as client:
        response = await client.post("/users", json={"email": "ada@example.com"})
    assert (response.status_code, response.json()) == (
        201,
        {"email": "ada@example.com", "id": 1},
    )
    assert await emails(app) == ["ada@example.com"]
    assert checked_out(engine_of(app)) == 0


@pytest.mark.parametrize("email", ['"ada\\ud800"', '"ada\\u0000"', "NaN", "1e400"])
async def test_what_neither_database_nor_response_can_hold_is_refused(
    app: FastAPI, email: str
) -> None:
    headers = {"content-type": "application/json"}
    async with client_of(app) as client:
        body = f'{{"email": {email}}}'
        response = await client.post("/users", content=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "email"]
    assert await emails(app) == []


async def test_the_commit_comes_before_the_response(app: FastAPI) -> None:
    order: list[str] = []
    event.listen(engine_of(app).sync_engine, "commit", lambda _: order.append("commit"))
    body = b'{"email": "ada@example.com"}'

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        order.append(message["type"])

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/users",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    assert order == ["commit", "http.response.start", "http.response.body"]


async def test_a_commit_that_fails_is_told_to_the_client(app: FastAPI) -> None:
    @app.post("/extensions", status_code=201)
    async def create_extension(session: SessionDep) -> None:
        session.add(Extension(number="1001", user_id=404))
        await session.flush()

    async with client_of(app) as client:
        response = await client.post("/extensions")
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    await assert_pool_is_whole(engine_of(app), 15)


async def test_an_http_error_rolls_back(app: FastAPI) -> None:
    @app.post("/tenants/404/users")
    async def create_user(session: SessionDep) -> None:
        session.add(User(email="ada@example.com"))
        await session.flush()
        raise HTTPException(404, "no such tenant")

    async with client_of(app) as client:
        response = await client.post("/tenants/404/users")
    assert response.status_code == 404
    assert await emails(app) == []
    assert checked_out(engine_of(app)) == 0


async def test_a_cancelled_request_returns_its_connection(app: FastAPI) -> None:
    holding = asyncio.Event()

    @app.post("/held")
    async def create_user(session: SessionDep) -> None:
        session.add(User(email="ada@example.com"))
        await session.flush()
        holding.set()
        await asyncio.Event().wait()

    async with client_of(app) as client:
        request = asyncio.create_task(client.post("/held"))
        await holding.wait()
        assert checked_out(engine_of(app)) == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert checked_out(engine_of(app)) == 0
    assert await emails(app) == []
    await assert_pool_is_whole(engine_of(app), 15)


async def test_a_request_s_session_is_refused_to_its_streamed_response(
    app: FastAPI,
) -> None:
    refusals: list[str] = []

    @app.get("/users")
    async def export_users(session: SessionDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            try:
                for email in await session.scalars(select(User.email)):
                    yield email
            except SharedSessionError as error:
                refusals.append(str(error))

        return StreamingResponse(lines())

    async with client_of(app) as client:
        assert (await client.get("/users")).text == ""
    assert refusals == ["another task's session; open a scope in this one"]
    assert checked_out(engine_of(app)) == 0


async def hang_up_during(request: str, app: FastAPI, holding: asyncio.Event) -> None:
    """Send `request` over a socket, hang up once `holding`; wait for the connection."""
    returned = asyncio.Event()
    engine = engine_of(app)
    event.listen(engine.sync_engine, "checkin", lambda *_: returned.set())
    async with serve(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{request} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        await holding.wait()
        assert checked_out(engine) == 1
        writer.close()
        await writer.wait_closed()
        await returned.wait()
        assert checked_out(engine) == 0


async def disconnected(request: Request) -> None:
    """Wait until the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def test_a_request_given_up_at_a_disconnect_is_rolled_back(
    app: FastAPI,
) -> None:
    holding = asyncio.Event()

    @app.post("/users/import")
    async def import_users(request: Request, session: SessionDep) -> None:
        session.add(User(email="ada@example.com"))
        await session.flush()
        holding.set()
        await disconnected(request)
        raise ClientDisconnect

    await hang_up_during("POST /users/import", app, holding)
    assert await emails(app) == []


async def test_a_request_that_ignores_a_disconnect_is_committed(
    app: FastAPI,
) -> None:
    holding = asyncio.Event()

    @app.post("/users/import")
    async def import_users(request: Request, session: SessionDep) -> None:
        session.add(User(email="ada@example.com"))
        await session.flush()
        holding.set()
        await disconnected(request)

    await hang_up_during("POST /users/import", app, holding)
    assert await emails(app) == ["ada@example.com"]


async def test_a_stream_whose_client_hangs_up_returns_its_connection(
    app: FastAPI,
) -> None:
    holding = asyncio.Event()

    @app.get("/users/export")
    async def export_users() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with session_scope(app.state.sessions) as session:
                session.add(User(email="ada@example.com"))
                await session.flush()
                yield "ada@example.com"
                holding.set()
                await asyncio.Event().wait()

        return StreamingResponse(lines())

    await hang_up_during("GET /users/export", app, holding)
    assert await emails(app) == []


async def test_the_engine_is_disposed_of_at_shutdown(database_url: str) -> None:
    app = create_app(database_url)
    opened: list[object] = []
    closed: list[object] = []
    async with app.router.lifespan_context(app):
        engine = engine_of(app).sync_engine
        event.listen(engine, "connect", lambda connection, _: opened.append(connection))
        event.listen(engine, "close", lambda connection, _: closed.append(connection))
        async with session_scope(app.state.sessions) as session:
            assert await session.scalar(text("SELECT 1")) == 1
        assert (len(opened), len(closed)) == (1, 0)
    assert closed == opened


async def test_the_naive_session_commits_after_the_client_was_told_of_success(
    naive_app: FastAPI, proof: Proof
) -> None:
    @naive_app.post("/extensions", status_code=201)
    async def create_extension(session: NaiveSession) -> None:
        session.add(Extension(number="1001", user_id=404))
        await session.flush()

    async with client_of(naive_app) as client:
        response = await client.post("/extensions")
    assert response.status_code == 201
    async with session_scope(naive_app.state.sessions) as session:
        assert await session.get(Extension, "1001") is None
    proof.breaks(
        "The commit fails on a deferred foreign key",
        "the client was told 201 before that; the extension does not exist",
    )


async def test_the_naive_session_of_a_cancelled_request_keeps_its_connection(
    naive_app: FastAPI, proof: Proof
) -> None:
    holding = asyncio.Event()
    kept: list[AsyncSession] = []

    @naive_app.post("/held")
    async def create_user(session: NaiveSession) -> None:
        kept.append(session)
        session.add(User(email="ada@example.com"))
        await session.flush()
        holding.set()
        await asyncio.Event().wait()

    async with client_of(naive_app) as client:
        request = asyncio.create_task(client.post("/held"))
        await holding.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert checked_out(engine_of(naive_app)) == 1
    await kept[0].close()
    proof.breaks(
        "A request is cancelled",
        "its connection stays checked out, in an open transaction",
    )


async def test_two_tasks_in_one_naive_session_undo_each_other_in_silence(
    naive_app: FastAPI, proof: Proof
) -> None:
    written = asyncio.Event()

    @naive_app.post("/imports")
    async def import_users(session: NaiveSession) -> tuple[str, str]:
        async def keep() -> str:
            session.add(User(email="ada@example.com"))
            await session.flush()
            written.set()
            return "kept"

        async def give_up() -> str:
            await written.wait()
            await session.rollback()
            return "given up"

        return await asyncio.gather(keep(), give_up())

    async with client_of(naive_app) as client:
        response = await client.post("/imports")
    assert (response.status_code, response.json()) == (200, ["kept", "given up"])
    assert await emails(naive_app) == []
    proof.breaks(
        "Two tasks share the session and one of them rolls back",
        "what the other wrote is gone, and nothing is raised",
    )
