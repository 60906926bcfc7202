"""What a client of the wired application is given around its own writes."""

from __future__ import annotations

from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import insert

from snippets.caching.commit_invalidation_wiring import Base, User, create_app
from tests.support.counters import count_round_trips
from tests.support.databases import create_engine
from tests.support.redis_faults import tcp_server
from tests.support.redis_servers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def user_id() -> int:
    """A user whom no other test asks for."""
    return uuid4().int >> 98


@pytest.fixture
async def database(database_url: str, user_id: int) -> str:
    """The URL of a database with one user."""
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(User).values(id=user_id, name="Ada"))
    await engine.dispose()
    return database_url


@asynccontextmanager
async def client_of(
    database_url: str, redis_url: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application, and yield a client of it."""
    app = create_app(database_url, redis_url)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_a_client_that_was_told_of_success_is_served_the_new_name(
    database: str, redis_url: str, user_id: int
) -> None:
    path = f"/users/{user_id}/name"
    async with client_of(database, redis_url) as http:
        assert (await http.get(path)).json() == "Ada"
        with count_round_trips() as trips:
            assert (await http.put(path, params={"name": "Augusta"})).is_success
        assert trips.commands == ["SET"]

        assert (await http.get(path)).json() == "Augusta"


async def test_a_request_that_fails_leaves_the_cache_alone(
    database: str, redis_url: str, user_id: int
) -> None:
    path = f"/users/{user_id}/name"
    async with client_of(database, redis_url) as http:
        await http.get(path)
        with count_round_trips() as trips:
            missing = await http.put("/users/0/name", params={"name": "Nobody"})

        assert (missing.status_code, trips.total) == (500, 0)
        assert (await http.get(path)).json() == "Ada"


async def test_without_redis_a_client_writes_and_reads_all_the_same(
    database: str, user_id: int
) -> None:
    path, port = f"/users/{user_id}/name", free_port()
    with ExitStack() as later:
        async with client_of(database, f"redis://127.0.0.1:{port}/0") as http:
            assert (await http.put(path, params={"name": "Augusta"})).is_success

            assert (await http.get(path)).json() == "Augusta"
            later.enter_context(tcp_server(port))  # for the tries that shutdown awaits
