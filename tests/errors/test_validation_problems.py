"""What a client is told of a request that does not fit."""

import asyncio
import math
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    FastAPI,
    Form,
    Header,
    Query,
    Request,
    WebSocket,
)
from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError
from starlette.responses import StreamingResponse

from catalogue.plugin import Proof
from snippets.errors import validation_problems_naive
from snippets.errors.problem_details import install_problem_handlers
from snippets.errors.safe_errors import ResponseCutOffError, install_safety_net
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


class Transfer(BaseModel):
    """To whom a call goes on, who may send it on too."""

    to: "Transfer | None" = None
    number: int = 0


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
        b'{"cost": 1, "of": "\\ud83d"}',
        b'{"cost": 1, "of": "\\uDE00\\uD83D"}',
        b'{"cost": 1, "\\udfff": 1}',
        b'{"cost": 1, "of": "\xed\xa0\x80"}',
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


@pytest.mark.parametrize("depths", [range(300, 800, 50), range(800, 1000)])
async def test_nesting_that_python_can_just_read_is_no_500(
    client: httpx.AsyncClient, depths: range
) -> None:
    for depth in depths:  # one of them can be read once, and not again from deeper
        text = b'{"to":' + b"[" * depth + b"NaN" + b"]" * depth + b"}"
        for path in ("/calls", "/anything"):
            response = await client.post(path, content=text, headers=JSON)
            problem(response, 400)


@pytest.mark.parametrize("zeros", [0, 1, 208, 209, 250, 299, 300, 307, 308, 309, 400])
async def test_a_number_beyond_a_float_is_refused_however_it_is_written(
    client: httpx.AsyncClient, zeros: int
) -> None:
    wrong = []
    for exponent in ("", "e9", "E+9", "e09", "e10", "e99", "e100", "e0308", "e-99"):
        for fraction in ("", ".0", "." + "0" * 320):
            number = "9" + "0" * zeros + fraction + exponent
            for text in (f'{{"cost": {number}}}', f'{{"cost": -{number} , "to": []}}'):
                answer = await client.post("/calls", content=text, headers=JSON)
                beyond = 422 if number.isdigit() else 400  # an integer is fine JSON
                expected = beyond if math.isinf(float(number)) else 200
                if answer.status_code != expected:
                    wrong.append(text)
    assert wrong == []


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.pbx+json", "APPLICATION/JSON; charset=utf-8", "application/json"],
)
async def test_json_by_any_of_its_names_may_have_no_nan(
    client: httpx.AsyncClient, media_type: str
) -> None:
    headers = {"content-type": media_type}
    response = await client.post("/calls", content='{"cost": NaN}', headers=headers)
    problem(response, 400)


async def test_json_without_a_name_may_have_no_nan_where_it_is_read() -> None:
    app = FastAPI(strict_content_type=False)
    install_problem_handlers(app)
    install_validation_handler(app)
    route(app, dict[str, float])
    async with client_of(app) as client:
        problem(await client.post("/body", content='{"cost": NaN}'), 400)
        assert (await client.post("/body", content='{"cost": 1}')).json() == 13


async def test_a_form_whose_parameters_speak_of_json_is_a_form(
    client: httpx.AsyncClient,
) -> None:
    part = (
        b'--json\r\nContent-Disposition: form-data; name="number"\r\n\r\n7\r\n--json--'
    )
    for media_type, content in (
        ("multipart/form-data; boundary=json", part),
        ("application/x-www-form-urlencoded; x=json", b"number=7"),
    ):
        headers = {"content-type": media_type}
        response = await client.post("/forms", content=content, headers=headers)
        assert (response.status_code, response.text) == (200, "7")


async def test_a_body_that_is_one_number_is_looked_at_as_well(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, float)
    problem(await client.post("/body", content="1e400", headers=JSON), 400)


async def test_bytes_that_are_no_json_may_hold_anything(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, bytes)
    for headers in ({}, {"content-type": "application/octet-stream; x=json"}):
        response = await client.post("/body", content=b"NaN\0", headers=headers)
        assert response.status_code == 200


async def test_text_that_says_infinity_is_a_number_unless_the_model_refuses_it(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    finite = Annotated[float, Field(allow_inf_nan=False)]

    @app.get("/rates")
    async def rate(any_rate: float = 1, finite_rate: finite = 1) -> str:
        return str(any_rate + finite_rate)

    for word in ("inf", "-Infinity", "nan", "1e999"):
        answer = await client.get("/rates", params={"any_rate": word})
        assert answer.json() in {"inf", "-inf", "nan"}
        problem(await client.get("/rates", params={"finite_rate": word}), 422)
    route(app, float)
    assert (await client.post("/body", json="inf")).status_code == 200
    app.router.routes.pop()
    route(app, finite)
    assert await refused(client, "inf") == [
        ("", "finite_number", "Input should be a finite number")
    ]


async def test_half_a_pair_of_surrogates_is_no_text_that_an_endpoint_could_answer(
    client: httpx.AsyncClient,
) -> None:
    password = CANARY * 2
    for half in (b"\\ud800", b"\xed\xb0\x80"):
        body = b'{"name": "Ada%b", "password": "%b"}' % (half, password.encode())
        response = await client.post("/users", content=body, headers=JSON)
        assert "detail" in problem(response, 400)


async def test_an_endpoint_without_a_body_is_not_made_to_read_one(
    client: httpx.AsyncClient,
) -> None:
    response = await client.request("GET", "/calls/7", content="NaN", headers=JSON)
    problem(response, 422)  # of its parameters


async def test_json_that_only_looks_odd_is_taken(client: httpx.AsyncClient) -> None:
    for text in (
        '{"NaN": "Infinity"}',
        '{"a": 1e308}',
        '{"id": "1e52-0e99"}',
        '{"a": "\\u0000"}',
        '{"e999":1}',
        '{"a": "\\ud83d\\ude00"}',
        '{"a": "\\\\ud83d"}',
        '{"a": "\ud55c\ud7a3"}',
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


async def test_a_key_with_the_name_of_a_member_of_a_union_does_not_mislead(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, Pet)
    body = {"kind": "cat", "cat": {"lives": "many"}, "lives": "many"}
    ((pointer, kind, _),) = await refused(client, body)
    assert (pointer, kind) == ("/lives", "int_parsing")

    del body["lives"]
    assert await refused(client, body) == [("/lives", "missing", "Field required")]

    app.router.routes.pop()
    route(app, dict[str, list[Pet]])
    home = {"cat": [{"kind": "dog", "dog": [1], "tricks": "many"}]}
    assert [place for place, *_ in await refused(client, home)] == ["/cat/0/tricks"]


async def test_a_path_of_one_name_is_not_tried_in_every_way_there_is(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    route(app, Transfer)
    depth = 18
    body: dict[str, Any] = {"number": "x"}
    for _ in range(depth):
        body = {"to": body}

    tracemalloc.start()
    try:
        found = await refused(client, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [pointer for pointer, *_ in found] == [f"{'/to' * depth}/number"]
    assert peak < 2**depth * 10  # bytes


async def test_what_was_changed_before_it_was_refused_is_placed_all_the_same(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    def copy(value: dict[str, Any]) -> dict[str, Any]:
        return {**value}

    route(app, dict[str, Annotated[Cat, BeforeValidator(copy)]])
    found = await refused(client, {"tom": {"kind": "cat"}})
    assert found == [("/tom/lives", "missing", "Field required")]
    app.router.routes.pop()
    route(app, dict[str, Json[list[int]]])
    found = await refused(client, {"a": '["x"]'})
    assert [pointer for pointer, *_ in found] == ["/a"]


async def test_members_of_a_union_are_in_no_pointer_of_a_parameter_either(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.get("/pages")
    async def pages(
        page: Annotated[int | bool, Query()],
        tag: Annotated[list[int | bool], Query()],
    ) -> int:
        return len(tag) + page

    document = problem(await client.get("/pages?page=x&tag=1&tag=x"), 422)
    places = [(one["location"], one["pointer"]) for one in document["errors"]]
    assert places == [("query", "/page"), ("query", "/tag/1")]


async def test_errors_of_a_model_that_the_endpoint_validates_itself_are_of_the_body(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.post("/own")
    async def own(request: Request) -> None:
        try:
            TypeAdapter(dict[str, list[int]] | int).validate_python(
                await request.json()
            )
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None

    @app.post("/whole")
    async def whole(request: Request) -> None:
        try:
            TypeAdapter(int).validate_python(await request.json())
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None

    @app.post("/named")
    async def named() -> None:
        error = {"loc": ("body", "name"), "type": "own", "msg": "No", "input": "x"}
        raise RequestValidationError([error])

    found = await refused(client, {"tags": ["x"]}, "/own")
    assert found[0][0] == "/dict[str,list[int]]/tags/0"  # all that it says of the place
    ((pointer, kind, _),) = await refused(client, "x", "/whole")
    assert (pointer, kind) == ("", "int_parsing")
    assert await refused(client, {}, "/named") == [("/name", "own", "No")]


async def test_messages_of_one_place_are_bounded(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    kinds: list[Any] = [Annotated[int, Field(ge=number)] for number in range(600)]
    route(app, reduce(or_, kinds))
    response = await client.post("/body", json=-1)
    document = problem(response, 422)
    assert len(response.content) < 2_000
    assert len(document["errors"]) == 1
    assert document["truncated"] is True


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


async def test_of_many_places_of_the_services_own_data_fifty_are_logged(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/many", response_model=list[int])
    async def many() -> list[str]:
        return ["x"] * 1000

    problem(await client.get("/many"), 500)
    (record,) = records(caplog)
    assert record.exc_info
    assert str(record.exc_info[1]).count("response.") == MOST_ERRORS


class Hidden(BaseModel, hide_input_in_errors=True):
    """A model whose errors do not quote what was refused."""

    pin: int


class Quoted(BaseModel):
    """A model whose errors do."""

    pin: int


@pytest.mark.parametrize(("model", "quoted"), [(Quoted, True), (Hidden, False)])
@pytest.mark.parametrize("path", ["task", "stream", "group", "cause"])
async def test_where_no_handler_sees_it_only_the_model_keeps_values_out_of_the_log(
    app: FastAPI,
    caplog: pytest.LogCaptureFixture,
    path: str,
    model: type[BaseModel],
    *,
    quoted: bool,
) -> None:
    async def check() -> None:
        model.model_validate({"pin": CANARY})

    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        await check()

    @app.get("/task")
    async def task(tasks: BackgroundTasks) -> None:
        tasks.add_task(check)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(pieces())

    @app.get("/group")
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(check())

    @app.get("/cause")
    async def cause() -> None:
        try:
            await check()
        except ValidationError as error:
            raise LookupError("no such row") from error

    net = install_safety_net(app, environment="production")
    exchange = Exchange(net, f"/{path}")
    with suppress(ResponseCutOffError):
        await exchange.run()

    assert CANARY not in str(exchange.sent)
    assert len(records(caplog)) == 1
    assert (CANARY in log_text(caplog)) is quoted


async def test_a_mounted_application_needs_handlers_of_its_own(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    class Form(BaseModel):
        """Something with a secret."""

        password: int

    async def store(form: Form) -> int:
        return form.password

    bare, own = FastAPI(), FastAPI()
    install_problem_handlers(own)
    install_validation_handler(own)
    for mounted, path in ((bare, "/bare"), (own, "/own")):
        mounted.add_api_route("/forms", store, methods=["POST"])
        app.mount(path, mounted)

    leaking = await client.post("/bare/forms", json={"password": CANARY})
    assert (leaking.status_code, CANARY in leaking.text) == (422, True)
    response = await client.post("/own/forms", json={"password": CANARY})
    assert CANARY not in response.text
    problem(response, 422)


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
