"""What a client may ask of the wired repository, and what it is told."""

from collections.abc import AsyncIterator

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from snippets.database.async_session import create_engine_and_sessions
from snippets.database.repository_wiring import Base, User, add_users
from tests.support.databases import create_tables

NAMES = ["Ada", "Grace", "Edsger"]


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with three users."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        rows = [{"email": f"{name}@example.com", "name": name} for name in NAMES]
        await connection.execute(sa.insert(User), rows)
    app = FastAPI()
    app.state.sessions = sessions
    add_users(app)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await engine.dispose()


async def names(client: httpx.AsyncClient, **query: str | int) -> list[str]:
    """Return the names of the users that a query lists."""
    response = await client.get("/users", params=query)
    assert response.status_code == 200
    return [user["name"] for user in response.json()["items"]]


async def test_a_client_sorts_searches_and_pages(client: httpx.AsyncClient) -> None:
    assert await names(client) == NAMES
    assert await names(client, sort="-name") == ["Grace", "Edsger", "Ada"]
    assert await names(client, q="E@EXAMPLE") == ["Grace"]
    assert await names(client, q="%") == []
    assert await names(client, sort="name", limit=1, offset=1) == ["Edsger"]


async def test_a_client_is_told_whether_more_follows(client: httpx.AsyncClient) -> None:
    response = await client.get("/users", params={"limit": 2})

    body = response.json()
    assert (body["has_more"], body["total"]) == (True, None)


async def test_what_a_client_may_not_ask_is_refused(client: httpx.AsyncClient) -> None:
    queries = ["limit=0", "limit=101", "offset=-1", f"offset={2**70}"]
    queries += ["sort=password", "sort=-", "sort=id,,name", "sort=" + "id," * 99 + "id"]
    for query in [*queries, "q=%00"]:
        response = await client.get(f"/users?{query}")

        assert response.status_code == 422, query


async def test_a_change_that_no_database_could_store_is_refused(
    client: httpx.AsyncClient,
) -> None:
    nul = await client.patch("/users/1", json={"name": "\0"})
    nobody = await client.patch("/users/1", json={"name": None})
    huge = await client.patch(f"/users/{2**70}", json={"name": "Ada"})

    assert [nul.status_code, nobody.status_code, huge.status_code] == [422, 422, 422]


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "1e400", '1, "\\ud800": 1'])
async def test_a_change_that_no_response_could_repeat_is_refused(
    client: httpx.AsyncClient, value: str
) -> None:
    headers = {"content-type": "application/json"}
    body = f'{{"name": {value}}}'
    response = await client.patch("/users/1", content=body, headers=headers)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][0] == "body"


async def test_a_change_is_committed_before_the_client_is_told(
    client: httpx.AsyncClient,
) -> None:
    response = await client.patch("/users/1", json={"name": "Countess"})

    assert response.json() == {"id": 1, "email": "Ada@example.com", "name": "Countess"}
    assert await names(client, q="Countess") == ["Countess"]


async def test_a_change_of_nothing_is_none(client: httpx.AsyncClient) -> None:
    response = await client.patch("/users/1", json={})

    assert response.status_code == 200
    assert response.json()["name"] == "Ada"


async def test_an_unknown_user_is_a_404(client: httpx.AsyncClient) -> None:
    response = await client.patch("/users/99", json={"name": "Nobody"})

    assert response.status_code == 404


async def test_an_unknown_field_is_a_422(client: httpx.AsyncClient) -> None:
    response = await client.patch("/users/1", json={"emial": "ada@example.org"})

    assert response.status_code == 422
    assert await names(client, q="example.com") == NAMES


async def test_a_conflict_is_a_409_that_quotes_no_value(
    client: httpx.AsyncClient,
) -> None:
    response = await client.patch("/users/1", json={"email": "Grace@example.com"})

    assert response.status_code == 409
    assert response.json() == {"detail": "User violates uq_users_email"}
    assert await names(client, q="ada@") == ["Ada"]
