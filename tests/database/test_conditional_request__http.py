"""What a client is told that reads and writes with preconditions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.conditional_request import etag
from snippets.database.conditional_request_wiring import add_extensions
from snippets.database.optimistic_lock import install_optimistic_lock
from snippets.database.optimistic_lock_wiring import Base, Extension
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from catalogue.plugin import Proof

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
    app.state.sessions, app.state.engine = sessions, engine
    add_extensions(app)
    yield app
    await engine.dispose()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        yield client


async def put(client: httpx.AsyncClient, target: str, *if_match: str) -> httpx.Response:
    """Send a change with these lines of If-Match."""
    lines = [("if-match", line) for line in if_match]
    return await client.put(URL, json={"forwards_to": target}, headers=lines)


async def test_a_client_changes_what_it_has_seen_and_may_go_on(
    client: httpx.AsyncClient,
) -> None:
    seen = await client.get(URL)
    assert seen.json() == {"forwards_to": "reception"}
    assert seen.headers["cache-control"] == "no-cache"

    first = await put(client, "voicemail", seen.headers["etag"])
    assert (first.status_code, first.json()) == (200, {"forwards_to": "voicemail"})
    second = await put(client, "mobile", first.headers["etag"])
    assert second.status_code == 200
    assert (await client.get(URL)).headers["etag"] == second.headers["etag"]


async def test_a_client_that_has_seen_another_state_is_refused(
    client: httpx.AsyncClient,
) -> None:
    tag = (await client.get(URL)).headers["etag"]
    assert (await put(client, "voicemail", tag)).status_code == 200

    for lines in ([tag], [f"W/{tag}"], ['"1"', '"2"']):
        assert (await put(client, "mobile", *lines)).status_code == 412
    deleted = await client.delete(URL, headers={"if-match": tag})
    assert deleted.status_code == 412
    assert (await client.get(URL)).json() == {"forwards_to": "voicemail"}


async def test_a_client_must_say_what_it_has_seen(client: httpx.AsyncClient) -> None:
    assert (await put(client, "mobile")).status_code == 428
    assert (await client.delete(URL)).status_code == 428
    assert (await client.get(URL)).json() == {"forwards_to": "reception"}


@pytest.mark.parametrize("line", ["", "17", '"17', '*, "17"', '"a" "b"'])
async def test_a_precondition_that_cannot_be_read_is_refused(
    client: httpx.AsyncClient, line: str
) -> None:
    assert (await put(client, "mobile", line)).status_code == 400
    got = await client.get(URL, headers={"if-none-match": line})
    assert (got.status_code, got.json()) == (200, {"forwards_to": "reception"})


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "1e400", '1, "\\ud800": 1'])
async def test_a_change_that_no_response_could_repeat_is_refused(
    client: httpx.AsyncClient, value: str
) -> None:
    headers = {"content-type": "application/json", "if-match": "*"}
    body = f'{{"forwards_to": {value}}}'
    response = await client.put(URL, content=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][0] == "body"


async def test_a_star_and_the_second_line_of_a_header_count(
    client: httpx.AsyncClient,
) -> None:
    assert (await put(client, "voicemail", "*")).status_code == 200
    tag = (await client.get(URL)).headers["etag"]
    assert (await put(client, "mobile", '"1"', tag)).status_code == 200


async def test_a_client_is_spared_what_it_has(client: httpx.AsyncClient) -> None:
    tag = (await client.get(URL)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"1", {tag}', "*"):
        spared = await client.get(URL, headers={"if-none-match": known})
        assert (spared.status_code, spared.content) == (304, b"")
        assert spared.headers["etag"] == tag

    await put(client, "mobile", tag)
    changed = await client.get(URL, headers={"if-none-match": tag})
    assert (changed.status_code, changed.json()) == (200, {"forwards_to": "mobile"})


async def test_what_was_deleted_is_not_found_and_not_inserted(
    client: httpx.AsyncClient,
) -> None:
    tag = (await client.get(URL)).headers["etag"]
    assert (await client.delete(URL, headers={"if-match": tag})).status_code == 204
    for line in (tag, "*"):
        assert (await put(client, "mobile", line)).status_code == 404
        assert (await client.delete(URL, headers={"if-match": line})).status_code == 404
    assert (await client.get(URL)).status_code == 404


async def test_a_new_row_under_an_old_key_is_not_what_the_client_has_seen(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    tag = (await client.get(URL)).headers["etag"]
    async with session_scope(app.state.sessions) as session:
        assert tag == etag((await session.get_one(Extension, 17)).version)
    await client.delete(URL, headers={"if-match": tag})
    async with session_scope(app.state.sessions) as session:
        session.add(Extension(id=17, forwards_to="somebody else"))

    assert (await put(client, "mobile", tag)).status_code == 412
    fresh = await client.get(URL, headers={"if-none-match": tag})
    assert fresh.json() == {"forwards_to": "somebody else"}


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.backends("postgresql")
async def test_who_comes_second_between_check_and_write_is_refused(
    app: FastAPI, client: httpx.AsyncClient, method: str
) -> None:
    both_have_checked = asyncio.Barrier(2)
    tag = (await client.get(URL)).headers["etag"]

    def pause(_: object, __: object, text: str, *___: object) -> None:
        if text.startswith(("UPDATE", "DELETE")):
            sa.util.await_only(both_have_checked.wait())

    sa.event.listen(app.state.engine.sync_engine, "before_cursor_execute", pause)

    async def send(target: str) -> int:
        if target == "last" and method == "DELETE":
            response = await client.delete(URL, headers={"if-match": tag})
        else:
            response = await put(client, target, tag)
        return response.status_code

    statuses = await asyncio.gather(send("first"), send("last"))
    assert max(statuses) == 412
    assert min(statuses) in (200, 204)


async def test_a_checked_write_is_one_read_and_one_write(
    app: FastAPI, client: httpx.AsyncClient, proof: Proof
) -> None:
    tag = (await client.get(URL)).headers["etag"]
    with count_sql(app.state.engine) as sent:
        await put(client, "mobile", tag)
    assert [text.split()[0] for text in sent.texts] == ["SELECT", "UPDATE"]
    proof.cost("one conditional PUT", statements=2)
