"""What a real server, its log and its clients see of an application in a safety net."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from snippets.errors.problem_details import install_problem_handlers
from snippets.errors.safe_errors import install_safety_net
from tests.support.problems import CANARY, RequestIds, log_text, problem, records, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def app() -> FastAPI:
    """An application that fails before, during and after its answer."""
    app = FastAPI(max_body_size=100_000)
    install_problem_handlers(app)

    @app.get("/fails")
    async def fail() -> None:
        raise RuntimeError(CANARY)

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            await fail()

        return StreamingResponse(pieces())

    @app.post("/voicemails")
    async def store(body: dict[str, str]) -> int:
        return len(body)

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the served application, which has ids and a net around it."""
    net = RequestIds(install_safety_net(app, environment="production"))
    async with serve(net) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str | None]:
    """Return the id of each record that shows the handler's traceback."""
    return [
        vars(record).get("request_id")
        for record in records(caplog)
        if record.exc_info and CANARY in str(record.exc_info[1])
    ]


async def test_a_500_over_a_socket_is_a_problem_and_its_traceback_is_logged_once(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/fails")

    problem(response, 500)
    assert CANARY not in response.text + str(response.headers)
    assert tracebacks(caplog) == [response.headers["x-request-id"]]
    assert log_text(caplog).count("in fail\n") == 1

    head = await client.head("/nothing")
    assert (head.status_code, head.content) == (404, b"")
    assert int(head.headers["content-length"]) > 0


async def test_half_an_answer_does_not_look_whole_and_is_logged_once(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/half")

    assert tracebacks(caplog) == ["request-1"]
    assert log_text(caplog).count("in fail\n") == 1
    assert "ResponseCutOffError: request request-1" in log_text(caplog)


async def test_both_413s_are_problems_over_a_socket(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"1" * 50_000

    problem(await client.post("/voicemails", content=b"1" * 100_001), 413)
    headers = {"content-type": "application/json"}
    response = await client.post("/voicemails", content=chunks(), headers=headers)
    problem(response, 413)


async def test_a_client_that_hangs_up_half_way_is_logged_as_no_error(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @app.post("/recordings")
    async def record(request: Request) -> None:
        try:
            async for _ in request.stream():
                began.set()
        finally:
            ended.set()

    host, port = client.base_url.host, client.base_url.port
    _, writer = await asyncio.open_connection(host, port)
    head = b"POST /recordings HTTP/1.1\r\nHost: pbx\r\nContent-Length: 99\r\n\r\n{"
    writer.write(head)
    await asyncio.wait_for(began.wait(), 5)
    writer.close()
    await writer.wait_closed()

    await asyncio.wait_for(ended.wait(), 5)
    problem(await client.get("/nothing"), 404)
    assert [one for one in records(caplog) if one.levelname == "ERROR"] == []
