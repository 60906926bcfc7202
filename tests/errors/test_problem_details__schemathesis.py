"""A fuzzer sends a service whatever it can think of, and finds nothing undocumented."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
import schemathesis
from fastapi import FastAPI, HTTPException
from hypothesis import given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    CheckFunction,
    not_a_server_error,
    positive_data_acceptance,
)
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError
from starlette.responses import JSONResponse, PlainTextResponse, Response

from snippets.database.async_session import create_engine_and_sessions
from snippets.errors.error_registry import Registry
from snippets.errors.problem_details import MEDIA_TYPE
from snippets.errors.problem_details_wiring import Base, create_app
from snippets.errors.problem_openapi import document_problems
from snippets.errors.safe_errors import SafetyNet
from tests.support.problems import CANARY, RequestIds, client_of, problem, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hypothesis import strategies as st

JSON = {"content-type": "application/json"}
OWN = ("/calls/{key}", "/users/{user}/calls", "/problems")
"""Paths of the wired service; those that are added here refuse whatever they get."""
EXAMPLES = 6
"""For each operation, of what fits its schema and again of what does not."""
RAISED: dict[str, Exception] = {
    "/unhandled": RuntimeError(CANARY),
    "/busy": HTTPException(503, CANARY),
    "/limited": HTTPException(429, headers={"Retry-After": "7"}),
    "/stale": StaleDataError(CANARY),
    "/refused": IntegrityError(CANARY, {"pin": CANARY}, Exception(CANARY)),
    "/private": HTTPException(401, headers={"WWW-Authenticate": "Bearer"}),
    "/tagged": HTTPException(406),
    "/typed": HTTPException(415),
}


class CheckError(Exception):
    """What a driver raises of a CHECK."""

    sqlstate = "23514"


CHECK = IntegrityError(CANARY, {"pin": CANARY}, CheckError(CANARY))
RAW: dict[int, dict[str, Any]] = {
    400: {"data": f'{{"id": "{CANARY}'.encode(), "headers": JSON},
    405: {"method": "PUT", "json": {"id": CANARY}},
    413: {"data": CANARY.encode() * 2000, "headers": JSON},
    422: {"json": {"id": CANARY, "seconds": CANARY}},
}
"""What the fuzzer does not think of, with a secret in each body."""


def directory() -> FastAPI:
    """Return a directory that knows half of the users."""
    app = FastAPI()

    @app.get("/users/{user}")
    async def show(user: str) -> Response:
        body = {"type": "/problems/unknown-user"}
        if user.startswith("7777"):
            return Response("<h1>Bad gateway", 503, media_type="text/html")
        known = user < "8"
        return JSONResponse(body, 200 if known else 404, media_type=MEDIA_TYPE)

    return app


@asynccontextmanager
async def service(url: str) -> AsyncIterator[FastAPI]:
    """Yield the wired service, with a route for each thing that can go wrong."""
    engine, sessions = create_engine_and_sessions(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    transport = httpx.ASGITransport(app=directory())
    async with httpx.AsyncClient(transport=transport, base_url="http://dir") as client:
        net = create_app(sessions, client)
        assert isinstance(net, SafetyNet)
        assert isinstance(net.app, FastAPI)
        for path, error in RAISED.items():
            net.app.get(path, operation_id=path)(raising(error))
        net.app.get("/checked/{number}")(raising_of_number(CHECK))
        net.app.get("/worded/{number}")(raising_of_number(HTTPException(422, "No")))
        net.app.get("/misfit", response_model=int)(lambda: CANARY)
        yield net.app
    await engine.dispose()


def raising(error: Exception) -> Callable[[], Awaitable[None]]:
    """Return an endpoint that raises."""

    async def fail() -> None:
        raise error

    return fail


def raising_of_number(error: Exception) -> Callable[[int], Awaitable[None]]:
    """Return an endpoint with a parameter, which FastAPI documents a 422 of."""

    async def fail(number: int) -> None:
        error.add_note(str(number))
        raise error

    return fail


@dataclass
class Fuzzed:
    """What a fuzzer was answered, and what it finds fault with."""

    url: str
    document: dict[str, object]
    answers: list[schemathesis.Response] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Send all operations what fits their schema, and what does not."""
        schema = schemathesis.openapi.from_dict(self.document)
        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            for mode in GenerationMode:
                if mode is GenerationMode.POSITIVE or [*operation.iter_parameters()]:
                    self._send(operation.as_strategy(generation_mode=mode))

    def _send(self, cases: st.SearchStrategy[schemathesis.Case[Any]]) -> None:
        @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
        @given(case=cases)
        def send(case: schemathesis.Case[Any]) -> None:
            self._check(case, case.call(base_url=self.url))

        send()

    def run_raw(self) -> None:
        """Send one operation what no schema leads to."""
        schema = schemathesis.openapi.from_dict(self.document)
        operation = schema["/users/{user}/calls"]["POST"]
        for status, raw in RAW.items():
            case = operation.Case(path_parameters={"user": str(UUID(int=7))})
            response = case.call(base_url=self.url, **raw)
            assert response.status_code == status
            self._check(case, response)

    def _check(
        self, case: schemathesis.Case[Any], response: schemathesis.Response
    ) -> None:
        self.answers.append(response)
        excluded: list[CheckFunction] = [not_a_server_error]
        if case.operation.path not in OWN:
            excluded.append(positive_data_acceptance)
        try:
            case.validate_response(response, excluded_checks=excluded)
        except FailureGroup as group:
            self.faults += [type(one).__name__ for one in group.exceptions]


async def fuzz(app: FastAPI, *, raw: bool = False) -> Fuzzed:
    """Serve a service, and let the fuzzer at it in a thread."""
    net = RequestIds(SafetyNet(app))
    async with serve(net) as url:
        fuzzed = Fuzzed(url, app.openapi())
        await asyncio.to_thread(fuzzed.run)
        if raw:
            await asyncio.to_thread(fuzzed.run_raw)
    return fuzzed


async def test_a_fuzzer_finds_no_undocumented_answer_and_no_secret(
    database_url: str,
) -> None:
    async with service(database_url) as app:
        fuzzed = await fuzz(app, raw=True)

    assert fuzzed.faults == []
    statuses = {answer.status_code for answer in fuzzed.answers}
    assert statuses >= {200, 401, 404, 406, 409, 415, 422, 429, 500, 503, *RAW}
    for answer in fuzzed.answers:
        assert CANARY not in answer.text + str(answer.headers)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == [MEDIA_TYPE]
            assert answer.json()["status"] == answer.status_code


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (PlainTextResponse("moved", 302), "UndefinedStatusCode"),
        (JSONResponse({"detail": "taken"}, 409), "UndefinedContentType"),
        (JSONResponse({"status": 409}, 409, None, MEDIA_TYPE), "JsonSchemaError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_planted_answer_that_is_not_documented_is_found(
    answer: Response, fault: str
) -> None:
    app = FastAPI()
    document_problems(app, Registry())
    app.get("/planted")(lambda: answer)
    fuzzed = await fuzz(app)
    assert fault in fuzzed.faults


async def test_hooks_of_the_directorys_client_are_kept_and_an_outage_is_a_503(
    database_url: str,
) -> None:
    asked: list[str] = []

    async def count(request: httpx.Request) -> None:
        asked.append(request.url.path)

    async def look(response: httpx.Response) -> None:
        asked.append(str(response.status_code))

    def refuse(request: httpx.Request) -> httpx.Response:
        if "0007" in request.url.path:
            raise httpx.ConnectError(CANARY, request=request)
        return httpx.Response(200)

    hooks: dict[str, list[Callable[..., Awaitable[None]]]]
    hooks = {"request": [count], "response": [look]}
    engine, sessions = create_engine_and_sessions(database_url)
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(refuse), base_url="http://dir", event_hooks=hooks
    ) as client:
        net = create_app(sessions, client)
        path = f"/users/{UUID(int=7)}"
        async with client_of(net) as caller:
            call = {"id": str(UUID(int=7)), "seconds": 1.5}
            response = await caller.post(f"{path}/calls", json=call)
        assert problem(response, 503)["type"] == "/problems/directory"
        await client.get("/users/1")
    await engine.dispose()
    assert asked == [path, "/users/1", "200"]


async def test_each_thing_that_goes_wrong_in_the_wired_service_has_its_answer(
    database_url: str,
) -> None:
    call = {"id": str(UUID(int=7)), "seconds": 1.5}
    known, unknown = (
        f"/users/{UUID(int=7)}/calls",
        f"/users/{UUID(int=2**128 - 1)}/calls",
    )
    nan = json.dumps({**call, "seconds": math.nan})
    json_type = {"content-type": "application/json"}

    async with service(database_url) as app, client_of(SafetyNet(app)) as client:
        missing = problem(await client.get(f"/calls/{UUID(int=7)}"), 404)
        assert missing["type"] == "/problems/no-call"
        assert missing["id"] == str(UUID(int=7))

        assert (await client.post(known, json=call)).status_code == 204
        assert (await client.get(f"/calls/{UUID(int=7)}")).json() == call
        for words in ("NaN", "Infinity", "-inf"):
            odd = {"id": str(UUID(int=8)), "seconds": words}
            problem(await client.post(known, json=odd), 422)
        away = f"/users/77777777-{str(UUID(int=7))[9:]}/calls"
        response = await client.post(away, json=call)
        assert problem(response, 503)["type"] == "/problems/directory"
        assert response.headers["retry-after"] == "5"
        again = problem(await client.post(known, json=call), 409)
        assert again["type"] == "/problems/taken"
        nobody = problem(await client.post(unknown, json=call), 409)
        assert nobody["detail"] == "The directory knows no such user"

        problem(await client.post(known, json={**call, "id": "x"}), 422)
        problem(await client.post(known, headers=json_type, content=nan), 400)
        problem(await client.post(known, content=b"x" * 20_000), 413)
        problem(await client.put(known), 405)

        listed = (await client.get("/problems")).json()
        assert listed == app.openapi()["x-problem-types"]
        assert "/problems/no-call" in [one["type"] for one in listed]
