"""What two clients with the same form are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.optimistic_lock import install_optimistic_lock
from snippets.database.optimistic_lock_wiring import (
    Base,
    Extension,
    add_extensions,
    report_conflicts,
)
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URL = "/extensions/17"


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[FastAPI]:
    """An application with one extension."""
    engine, sessions = create_engine_and_sessions(database_url)
    install_optimistic_lock(sessions)
    await create_tables(engine, Base.metadata)
    async with session_scope(sessions) as session:
        session.add(Extension(id=17, forwards_to="reception"))
    app = FastAPI()
    app.state.sessions = sessions
    add_extensions(app)
    report_conflicts(app)
    yield app
    await engine.dispose()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        yield client


async def test_of_two_clients_with_the_same_form_the_second_gets_a_409(
    client: httpx.AsyncClient,
) -> None:
    both_have_read = asyncio.Barrier(2)

    async def fill_in(target: str) -> tuple[int, str]:
        form = (await client.get(URL)).json()
        await both_have_read.wait()
        response = await client.put(URL, json={**form, "forwards_to": target})
        return response.status_code, target

    answers = await asyncio.gather(fill_in("voicemail"), fill_in("mobile"))

    (first, saved), (second, _) = sorted(answers)
    assert (first, second) == (200, 409)
    assert (await client.get(URL)).json()["forwards_to"] == saved


async def test_a_client_may_go_on_with_the_form_it_gets_back(
    client: httpx.AsyncClient,
) -> None:
    form = (await client.get(URL)).json()
    for target in ("voicemail", "mobile"):
        response = await client.put(URL, json={**form, "forwards_to": target})
        assert response.status_code == 200
        form = response.json()
    assert (await client.get(URL)).json() == form


async def test_the_form_of_a_deleted_extension_is_a_404_and_inserts_nothing(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    form = (await client.get(URL)).json()
    async with session_scope(app.state.sessions) as session:
        await session.execute(sa.delete(Extension))
    assert (await client.put(URL, json=form)).status_code == 404
    assert (await client.get(URL)).status_code == 404


async def test_a_conflict_quotes_no_value(client: httpx.AsyncClient) -> None:
    form = {"version": 1, "forwards_to": "canary-4f1c"}
    response = await client.put(URL, json=form)
    assert response.status_code == 409
    assert "canary" not in response.text


@pytest.mark.parametrize("version", [None, 0, -1, 2**63, 1.5, "", "1 OR 1=1", [1]])
async def test_a_version_that_no_row_can_have_is_refused(
    client: httpx.AsyncClient, version: object
) -> None:
    form = {"version": version, "forwards_to": "mobile"}
    assert (await client.put(URL, json=form)).status_code == 422


async def test_a_form_without_a_version_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.put(URL, json={"forwards_to": "mobile"})
    assert response.status_code == 422


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "1e400", '1.5, "\\ud800": 1'])
async def test_a_form_that_no_response_could_repeat_is_refused(
    client: httpx.AsyncClient, value: str
) -> None:
    headers = {"content-type": "application/json"}
    body = f'{{"forwards_to": "mobile", "version": {value}}}'
    response = await client.put(URL, content=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][0] == "body"
