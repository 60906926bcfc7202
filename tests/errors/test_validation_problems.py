"""What a client is told of a request that does not fit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import (
    APIRouter,
    Body,
    Cookie,
    FastAPI,
    Form,
    Header,
    Query,
    WebSocket,
)
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, Json, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from catalogue.plugin import Proof
from snippets.errors import validation_problems_naive
from snippets.errors.problem_details import install_problem_handlers
from snippets.errors.safe_errors import install_safety_net
from snippets.errors.validation_problems import (
    MOST_ERRORS,
    ValidationProblem,
    install_validation_handler,
)
from tests.support.problems import (
    CANARY,
    Exchange,
    client_of,
    log_text,
    problem,
    records,
)

JSON = {"content-type": "application/json"}


class User(BaseModel):
    """Somebody with a telephone."""

    name: str = Field(min_length=2)
    password: SecretStr = Field(min_length=20)
    pin: int | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "quoted":
            raise ValueError(f"{CANARY} is not a name")
        if name == "explained":
            raise PydanticCustomError("name_taken", "Somebody has this name already")
        if name == "filled":
            raise PydanticCustomError("odd", "Not {it}, please", {"it": CANARY})
        return name


class Call(BaseModel):
    """A call, whose cost may be any number."""

    cost: float
    to: list[int] = []


class Cat(BaseModel):
    """One of two kinds."""

    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    """The other kind."""

    kind: Literal["dog"]
    tricks: int


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


@pytest.fixture
def app() -> FastAPI:
    """An application that takes values from everywhere."""
    app = FastAPI()
    install_problem_handlers(app)
    install_validation_handler(app)
    router = APIRouter(prefix="/included")

    @app.post("/users")
    async def add(user: User) -> str:
        return user.name

    @app.post("/calls")
    @router.post("/calls")
    async def call(call: Call) -> float:
        return call.cost

    @app.get("/calls/{key}")
    async def show(
        key: int,
        page: Annotated[int, Query(ge=1)],
        tag: Annotated[list[int], Query()],
        x_tenant: Annotated[int, Header()],
        session: Annotated[int, Cookie()],
    ) -> int:
        return key + page + len(tag) + x_tenant + session

    @app.post("/forms")
    async def form(number: Annotated[int, Form()]) -> int:
        return number

    @app.post("/anything")
    async def anything(body: dict[str, Any]) -> int:
        return len(body)

    @app.websocket("/ring")
    async def ring(websocket: WebSocket, line: int) -> None:
        await websocket.accept(str(line))

    app.include_router(router)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with client_of(install_safety_net(app, environment="production")) as client:
        yield client


def route(app: FastAPI, kind: object) -> None:
    """Give an application a route that takes a body of some type."""

    async def take(body: object) -> int:
        return len(str(body))

    take.__annotations__["body"] = Annotated[kind, Body()]
    app.add_api_route("/body", take, methods=["POST"])


async def refused(
    client: httpx.AsyncClient, body: object, path: str = "/body"
) -> list[tuple[str, str, str]]:
    """Return pointer, type and message of each place that a body is refused for."""
    document = problem(await client.post(path, json=body), 422)
    assert document["truncated"] is False
    assert {error["location"] for error in document["errors"]} == {"body"}
    return [(one["pointer"], one["type"], one["message"]) for one in document["errors"]]


async def test_each_place_has_location_pointer_type_and_message(
    client: httpx.AsyncClient,
) -> None:
    document = problem(
        await client.get(
            "/calls/x?page=0&tag=1&tag=b", headers={"cookie": "session=x"}
        ),
        422,
    )

    assert document["title"] == "Unprocessable Content"
    assert document["truncated"] is False
    found = {(one["location"], one["pointer"]): one for one in document["errors"]}
    assert {key: one["type"] for key, one in found.items()} == {
        ("path", "/key"): "int_parsing",
        ("query", "/page"): "greater_than_equal",
        ("query", "/tag/1"): "int_parsing",
        ("header", "/x-tenant"): "missing",
        ("cookie", "/session"): "int_parsing",
    }
    message = "Input should be greater than or equal to 1"
    assert found["query", "/page"]["message"] == message
    ValidationProblem.model_validate(document)


async def test_the_rejected_password_is_in_no_answer_and_in_no_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    user = {"name": CANARY[:1], "password": CANARY, "pin": CANARY}
    response = await client.post("/users", json=user)

    places = [error["pointer"] for error in problem(response, 422)["errors"]]
    assert places == ["/name", "/password", "/pin"]
    assert CANARY not in response.text + str(response.headers)
    assert CANARY not in log_text(caplog)
    assert records(caplog) == []


@pytest.mark.parametrize(
    "text",
    [f'{{"password": "{CANARY}', f'{{"password": "{CANARY}", "pin": NaN}}', CANARY],
)
async def test_a_password_in_a_body_that_is_not_json_is_in_no_answer_and_no_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    response = await client.post("/users", content=text, headers=JSON)
    problem(response, 400)
    assert CANARY not in response.text + str(response.headers) + log_text(caplog)


async def test_a_form_is_refused_without_its_values(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.post("/forms", data={"number": CANARY})
    (error,) = problem(response, 422)["errors"]
    assert (error["location"], error["pointer"]) == ("body", "/number")
    assert CANARY not in response.text + log_text(caplog)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("quoted", "value_error", "Value error"),
        ("explained", "name_taken", "Somebody has this name already"),
        ("filled", "odd", "Not"),
    ],
)
async def test_of_a_validators_words_only_the_constant_ones_are_shown(
    client: httpx.AsyncClient, name: str, kind: str, message: str
) -> None:
    user = {"name": name, "password": "x" * 20}
    assert await refused(client, user, "/users") == [("/name", kind, message)]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("uuid", "zz-4f1c", "Input should be a valid UUID"),
        ("json", "zz-4f1c", "Invalid JSON"),
        ("pet", {"kind": "zz-4f1c"}, "The value is not valid"),
        ("choice", "zz-4f1c", "Input should be 'in' or 'out'"),
        ("digits", "zz-4f1c", "String should match pattern '^[0-9]+$'"),
        ("short", "zz-4f1c", "String should have at most 3 characters"),
        ("few", ["zz-4f1c"] * 2, "List should have at most 1 item after validation"),
    ],
)
async def test_no_message_of_pydantic_quotes_the_value(
    app: FastAPI, client: httpx.AsyncClient, kind: str, value: object, message: str
) -> None:
    types: dict[str, object] = {
        "uuid": UUID,
        "json": Json[int],
        "pet": Pet,
        "choice": Literal["in", "out"],
        "digits": Annotated[str, Field(pattern="^[0-9]+$")],
        "short": Annotated[str, Field(max_length=3)],
        "few": Annotated[list[str], Field(max_length=1)],
    }
    route(app, types[kind])

    ((_, _, found),) = await refused(client, value)

    assert found.startswith(message)
    assert "zz" not in found


@pytest.mark.parametrize(
    "text",
    [
        b'{"cost": NaN}',
        b'{"cost": Infinity}',
        b'{"cost": -Infinity}',
        b'{"cost": 1e999}',
        b'{"cost": -1E+0400}',
        b'{"cost": ' + b"9" * 400 + b".0}",
        b'{"cost": ' + b"9" * 5000 + b"}",
        '{"cost": NaN}'.encode("utf-16"),
        '{"cost": 1}'.encode("utf-16-le"),
        b'{"cost": "\xff"}',
        b'{"cost": 1',
        b"{'cost': 1}",
        b'{"cost": 1} {}',
        b"",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=lambda text: repr(text[:20]),
)
@pytest.mark.parametrize("path", ["/calls", "/included/calls", "/anything"])
async def test_what_is_not_json_is_refused_with_400_and_an_empty_body_with_422(
    client: httpx.AsyncClient, text: bytes, path: str
) -> None:
    response = await client.post(path, content=text, headers=JSON)
    problem(response, 400 if text else 422)


@pytest.mark.parametrize("depth", range(300, 1000, 50))
async def test_nesting_that_python_can_just_read_is_no_500(
    client: httpx.AsyncClient, depth: int
) -> None:
    text = b'{"to":' + b"[" * depth + b"NaN" + b"]" * depth + b"}"
    for path in ("/calls", "/anything"):
        response = await client.post(path, content=text, headers=JSON)
        problem(response, 400)


async def test_json_that_only_looks_odd_is_taken(client: httpx.AsyncClient) -> None:
    for text in (
        '{"NaN": "Infinity"}',
        '{"a": 1e308}',
        '{"a": "\\u0000"}',
        '{"e999":1}',
    ):
        response = await client.post("/anything", content=text, headers=JSON)
        assert response.status_code == 200
    other = {"content-type": "application/octet-stream"}
    assert (
        await client.post("/anything", content="NaN", headers=other)
    ).status_code == 422


def test_it_must_be_installed_before_there_are_routes() -> None:
    app = FastAPI()
    app.add_api_route("/calls", list)
    with pytest.raises(RuntimeError, match="before there are routes"):
        install_validation_handler(app)


async def test_ten_thousand_errors_are_fifty_and_a_mark(
    client: httpx.AsyncClient,
) -> None:
    call = {"cost": 1, "to": ["x"] * 10_000}
    document = problem(await client.post("/calls", json=call), 422)

    pointers = [error["pointer"] for error in document["errors"]]
    assert pointers == [f"/to/{number}" for number in range(MOST_ERRORS)]
    assert document["truncated"] is True

    call = {"cost": 1, "to": ["x"] * MOST_ERRORS}
    document = problem(await client.post("/calls", json=call), 422)
    assert len(document["errors"]) == MOST_ERRORS
    assert document["truncated"] is False


async def test_errors_at_one_place_are_one_entry_whatever_the_union(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, dict[str, int | bool | list[int]])

    found = await refused(client, {"extension": "x", "list": {"int": 1}})

    assert [pointer for pointer, _, _ in found] == ["/extension", "/list"]
    _, kind, message = found[0]
    assert kind == "int_parsing"
    assert message.split("; ")[0].startswith("Input should be a valid integer")
    assert len(message.split("; ")) == 3


async def test_members_of_a_union_of_models_are_in_no_pointer(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, list[Cat | Dog])
    found = await refused(client, [{"kind": "cat"}, 1])
    assert {pointer for pointer, _, _ in found} == {
        "/0/lives",
        "/0/kind",
        "/0/tricks",
        "/1",
    }

    app.router.routes.pop()
    route(app, list[Pet])
    assert await refused(client, [{"kind": "cat"}]) == [
        ("/0/lives", "missing", "Field required")
    ]


async def test_slash_and_tilde_in_a_key_are_escaped(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, dict[str, dict[str, int]])
    body = {"a/b": {"c~d": "x", "~1": "x", "": "x", "\u00e9": "x"}}
    pointers = [pointer for pointer, _, _ in await refused(client, body)]
    assert pointers == ["/a~1b/c~0d", "/a~1b/~01", "/a~1b/", "/a~1b/\u00e9"]


async def test_a_pointer_too_long_leads_to_what_contains_the_place(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, dict[str, dict[str, int]])
    body = {"users": {"k" * 100_000: "x", "y" * 100: "x"}}
    pointers = [pointer for pointer, _, _ in await refused(client, body)]
    assert pointers == ["/users", "/users/" + "y" * 100]


async def test_a_context_that_holds_an_exception_or_no_context_is_answered(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.get("/own")
    async def own() -> None:
        error = {"loc": ("query", "q"), "type": "own", "msg": f"Bad: {CANARY}!"}
        known = {**error, "ctx": {"error": ValueError(CANARY)}, "input": object()}
        other = {**error, "loc": ("query", "r"), "ctx": {"cause": object()}}
        plain = {"loc": ("query", "s"), "type": "own", "msg": "Odd: '"}
        raise RequestValidationError([known, other, plain])

    errors = problem(await client.get("/own"), 422)["errors"]
    place = {"location": "query", "type": "own"}
    assert errors == [
        {**place, "pointer": "/q", "message": "Bad"},
        {**place, "pointer": "/r", "message": "The value is not valid"},
        {**place, "pointer": "/s", "message": "Odd: '"},
    ]


async def test_data_of_the_service_that_does_not_fit_is_a_500_without_values(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"name": "Ada", "password": "x" * 20, "pin": CANARY}

    @app.get("/answered", response_model=User)
    async def answered() -> object:
        return row

    @app.get("/validated")
    async def validated() -> User:
        return User.model_validate(row)

    for path in ("/answered", "/validated"):
        caplog.clear()
        response = await client.get(path)
        problem(response, 500)
        assert CANARY not in response.text
        assert CANARY not in log_text(caplog)
        (record,) = records(caplog)
        assert record.exc_info
        whose = {
            "/answered": "answered: ['response.pin']",
            "/validated": "User: ['pin']",
        }
        assert str(record.exc_info[1]) == whose[path]
        assert record.exc_info[2]


async def test_a_websocket_is_closed_without_the_values(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange(app, "/ring", kind="websocket")
    await exchange.run()

    (message,) = exchange.sent
    assert (message["type"], message["code"]) == ("websocket.close", 1008)
    assert not message["reason"]
    assert records(caplog) == []


async def test_a_websocket_that_fits_is_accepted(app: FastAPI) -> None:
    exchange = Exchange(app, "/ring", kind="websocket", query=b"line=7")
    await exchange.run()
    assert exchange.sent[0]["subprotocol"] == "7"


async def test_without_it_the_password_is_in_the_answer_and_in_the_log(
    caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    async with naive_client() as client:
        response = await client.post("/users", json={"password": CANARY})

    assert response.status_code == 422
    assert CANARY in response.text
    assert CANARY in log_text(caplog)
    proof.breaks(
        "A client sends its password in a form that does not fit.",
        "The password is in the answer and in the log.",
    )


@pytest.mark.parametrize(
    ("text", "headers", "action"),
    [
        (b'{"pin": NaN}', JSON, "A number is NaN."),
        (b"\xff", {"content-type": "text/plain"}, "A body is not UTF-8."),
    ],
    ids=["nan", "bytes"],
)
async def test_without_it_hostile_input_ends_in_a_500(
    proof: Proof, text: bytes, headers: dict[str, str], action: str
) -> None:
    async with naive_client() as client:
        response = await client.post("/users", content=text, headers=headers)
    assert response.status_code == 500
    proof.breaks(action, "The answer that should repeat it fails with a 500.")


@asynccontextmanager
async def naive_client() -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an application with the naive handler."""
    app = FastAPI()
    validation_problems_naive.install_validation_handler(app)

    @app.post("/users")
    async def add(user: dict[str, int]) -> int:
        return len(user)

    async with client_of(app) as client:
        yield client
