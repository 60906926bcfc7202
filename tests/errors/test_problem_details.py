"""What a client is told by an application that answers with problem documents."""

import http.client
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Form, HTTPException, WebSocket
from pydantic import BaseModel, computed_field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import StreamingResponse

from catalogue.plugin import Proof
from snippets.errors import problem_details_naive
from snippets.errors.problem_details import (
    MEDIA_TYPE,
    ProblemDetail,
    ProblemException,
    ProblemType,
    install_problem_handlers,
)
from tests.support.problems import CANARY, Exchange, client_of, problem, records

CYCLE: list[object] = []
CYCLE.append(CYCLE)


class Computed(BaseModel):
    """A model with a member that fails as it is computed."""

    @computed_field
    def owner(self) -> str:
        """Fail with an error that is no `ValueError`."""
        raise KeyError(CANARY)


def failing() -> Iterator[int]:
    """Yield, and fail."""
    yield 1
    raise ZeroDivisionError


class Unprintable:
    """Something that not even `repr` can print."""

    def __repr__(self) -> str:
        """Fail."""
        raise RuntimeError(CANARY)


@pytest.fixture
def app() -> FastAPI:
    """An application that knows one call."""
    app = FastAPI()
    install_problem_handlers(app)

    @app.get("/calls/{key}")
    async def show(key: str) -> str:
        return key

    @app.post("/voicemails")
    async def store(greeting: Annotated[bytes, Form()]) -> int:
        return len(greeting)

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with client_of(app) as client:
        yield client


def fails(app: FastAPI, error: Exception, path: str = "/fails") -> None:
    """Give an application a route that raises."""

    async def fail() -> None:
        raise error

    app.add_api_route(path, fail, methods=["GET", "HEAD"])


@pytest.mark.parametrize("kind", [HTTPException, StarletteHTTPException])
@pytest.mark.parametrize(
    "status", [400, 401, 404, 405, 406, 409, 413, 415, 418, 422, 429, 500, 503]
)
async def test_an_exception_of_any_status_is_answered_with_a_problem_document(
    app: FastAPI,
    client: httpx.AsyncClient,
    kind: type[StarletteHTTPException],
    status: int,
) -> None:
    fails(app, kind(status))

    document = problem(await client.get("/fails?token=1"), status)

    assert document["type"] == "about:blank"
    assert "detail" not in document
    assert document["title"]


async def test_titles_are_the_phrases_of_rfc_9110_whatever_the_version_of_python(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    phrases = {
        413: "Content Too Large",
        422: "Unprocessable Content",
        404: "Not Found",
        499: "Error",
    }
    for status, phrase in phrases.items():
        detail = http.client.responses.get(status)
        fails(app, HTTPException(status, detail), f"/{status}")
        document = problem(await client.get(f"/{status}"), status)
        assert document["title"] == phrase
        assert "detail" not in document


async def test_an_unknown_path_and_a_wrong_method_are_problems(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    router = APIRouter()
    router.add_api_route("/included", app.openapi)
    app.include_router(router)

    assert problem(await client.get("/nothing"), 404)["title"] == "Not Found"
    for path, allowed in (
        ("/calls/7", "GET"),
        ("/included", "GET"),
        ("/openapi.json", "GET, HEAD"),
    ):
        response = await client.put(path)
        problem(response, 405)
        allow = response.headers["allow"].split(", ")
        assert sorted(allow) == allowed.split(", ")


async def test_a_malformed_form_is_a_problem_of_status_400(
    client: httpx.AsyncClient,
) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = await client.post("/voicemails", content=b"--x", headers=headers)
    problem(response, 400)


async def test_headers_of_a_4xx_are_kept_except_those_of_the_body(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    own = {"CONTENT-TYPE": "text/html", "Content-Length": "9999"}
    challenge = {"WWW-Authenticate": 'Bearer realm="pbx"', **own}
    fails(app, HTTPException(401, headers=challenge), "/401")
    fails(app, HTTPException(429, headers={"Retry-After": "7"}), "/429")

    refused = await client.get("/401")
    limited = await client.get("/429")

    problem(refused, 401)
    problem(limited, 429)
    assert refused.headers["www-authenticate"] == 'Bearer realm="pbx"'
    assert limited.headers["retry-after"] == "7"


async def test_a_header_that_could_not_be_sent_is_left_out_and_the_others_stay(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.get("/echo")
    async def echo(word: str) -> None:
        headers = {"X-Word": word, "WWW-Authenticate": f'Bearer error="{word}"'}
        raise HTTPException(401, headers={**headers, "X-Other": "kept"})

    for word in ("a\r\nSet-Cookie: b=c", "\n", "\0", "\x7f", "\u20ac", "\x1b[2K"):
        refused = await client.get("/echo", params={"word": word})
        problem(refused, 401)
        assert not {"x-word", "www-authenticate", "set-cookie"} & {*refused.headers}
        assert refused.headers["x-other"] == "kept"
    for word in ("a", "a \t b", "caf\xe9", ""):
        refused = await client.get("/echo", params={"word": word})
        assert refused.headers["www-authenticate"] == f'Bearer error="{word}"'
        assert refused.headers["x-word"] == word


async def test_a_5xx_keeps_its_type_its_title_and_retry_after_and_nothing_else(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    headers = {"RETRY-AFTER": "7", "X-Error": CANARY}
    kind = ProblemType("/problems/busy", "The service is busy")
    members = {"dsn": CANARY}
    fails(
        app,
        ProblemException(503, CANARY, kind=kind, headers=headers, members=members),
    )

    response = await client.get("/fails")

    document = problem(response, 503)
    assert document.pop("request_id")
    assert document == {
        "type": "/problems/busy",
        "title": "The service is busy",
        "status": 503,
        "instance": "/fails",
    }
    assert response.headers["retry-after"] == "7"
    assert CANARY not in str(response.headers)


async def test_members_follow_and_the_standard_ones_stay_what_they_are(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    kind = ProblemType("https://pbx.example/problems/no-credit", "No credit")
    error = ProblemException(
        403, "30 are missing", kind=kind, members={"missing": 30, "currency": "EUR"}
    )
    fails(app, error)
    error.members["status"] = 200  # too late to be refused

    document = problem(await client.get("/fails"), 403)

    assert document.pop("request_id")
    assert document == {
        "type": "https://pbx.example/problems/no-credit",
        "title": "No credit",
        "status": 403,
        "detail": "30 are missing",
        "instance": "/fails",
        "missing": 30,
        "currency": "EUR",
    }


@pytest.mark.parametrize("name", ProblemDetail.model_fields)
def test_a_member_with_a_standard_name_is_refused_when_raised(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ProblemException(404, members={name: 200})


@pytest.mark.parametrize("status", [0, 200, 304, 399, 600])
def test_a_status_that_is_no_error_is_refused_when_raised(status: int) -> None:
    with pytest.raises(ValueError, match="is no error"):
        ProblemException(status)


@pytest.mark.parametrize("uri", ["", "no such call", "a\r\nb", "näher", "<x>", "x\n"])
def test_a_type_that_is_no_uri_reference_is_refused_when_raised(uri: str) -> None:
    with pytest.raises(ValueError, match="no reference"):
        ProblemException(404, kind=ProblemType(uri, "No such call"))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Unprintable(),
        float("nan"),
        [1.0, float("-inf")],
        b"\xff",
        CYCLE,
        10**5000,
        {"nested": {"deep": object()}},
        Computed(),
        failing(),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_member_that_is_not_json_is_left_out_and_the_others_stay(
    app: FastAPI, client: httpx.AsyncClient, value: object
) -> None:
    fails(app, ProblemException(409, members={"bad": value, "number": "1001"}))

    document = problem(await client.get("/fails"), 409)

    assert document["number"] == "1001"
    assert "bad" not in document


async def test_members_are_written_as_pydantic_writes_them(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    members = {
        "credit": Decimal("1.50"),
        "call": UUID(int=7),
        "tried": {"1001"},
        "half": "\ud800",
    }
    fails(app, ProblemException(409, members=members))

    document = problem(await client.get("/fails"), 409)

    assert document["credit"] == "1.50"
    assert document["call"] == "00000000-0000-0000-0000-000000000007"
    assert document["tried"] == ["1001"]
    assert document["half"] == "?"


async def test_a_detail_that_is_no_text_becomes_a_member(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    fails(app, HTTPException(409, {"status": 200, "number": "1001"}))

    document = problem(await client.get("/fails"), 409)

    assert document["details"] == {"status": 200, "number": "1001"}
    assert "detail" not in document


async def test_the_instance_is_the_path_quoted_and_never_a_host(app: FastAPI) -> None:
    for path, instance in {
        "/calls/7/x": "/calls/7/x",
        "//evil.example/x": "/evil.example/x",
        "/a b\r\n<é>": "/a%20b%0D%0A%3C%C3%A9%3E",
        "/\ud800": "/%3F",
    }.items():
        exchange = Exchange(app, path)
        await exchange.run()
        assert exchange.document()["instance"] == instance


async def test_the_answer_to_head_has_the_headers_of_get_and_no_body(
    app: FastAPI,
) -> None:
    fails(app, HTTPException(404, "no such call"))
    get, head = Exchange(app, "/fails"), Exchange(app, "/fails", method="HEAD")
    await get.run()
    await head.run()

    assert head.starts == get.starts
    assert len(get.body) > 0
    assert head.body == b""


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/xml;q=0.1"])
async def test_whoever_accepts_no_problem_document_is_given_one_all_the_same(
    client: httpx.AsyncClient, accept: str
) -> None:
    problem(await client.get("/nothing", headers={"accept": accept}), 404)


async def test_a_status_that_is_no_error_is_answered_without_a_body(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    fails(app, HTTPException(304, headers={"ETag": '"7"'}))
    response = await client.get("/fails")
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == '"7"'


async def test_an_answer_that_has_begun_is_begun_once_and_the_server_is_told(
    app: FastAPI,
) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise HTTPException(409, "too late")

    app.add_api_route("/half", lambda: StreamingResponse(half()))
    exchange = Exchange(app, "/half")

    with pytest.raises(RuntimeError, match="already started") as raised:
        await exchange.run()

    assert isinstance(raised.value.__cause__, HTTPException)
    assert [start["status"] for start in exchange.starts] == [200]
    assert exchange.body == b"half"


async def test_a_5xx_is_logged_once_with_its_cause_and_the_id_and_a_404_never(
    app: FastAPI,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    proof: Proof,
) -> None:
    unavailable = HTTPException(503, "later")
    unavailable.__cause__ = ConnectionError("no route to the exchange")
    fails(app, unavailable)
    response = await client.get("/fails")

    (record,) = records(caplog)
    assert record.exc_info
    error = record.exc_info[1]
    assert isinstance(error, HTTPException)
    assert isinstance(error.__cause__, ConnectionError)
    identity = response.headers["x-request-id"]
    assert record.__dict__["request_id"] == identity
    assert identity in record.getMessage()
    proof.cost("a 5xx", log_records=1)

    caplog.clear()
    await client.get("/nothing")
    assert records(caplog) == []
    proof.cost("a 404", log_records=0)


async def test_a_refused_websocket_is_given_the_document_too(app: FastAPI) -> None:
    @app.websocket("/ring")
    async def ring(websocket: WebSocket) -> None:
        raise HTTPException(403, f"nobody listens at {websocket.url.path}")

    exchange = Exchange(app, "/ring", kind="websocket")
    await exchange.run()

    assert [start["status"] for start in exchange.starts] == [403]
    assert exchange.document()["detail"] == "nobody listens at /ring"


async def test_without_it_a_member_overwrites_the_status(proof: Proof) -> None:
    app = FastAPI()
    problem_details_naive.install_problem_handlers(app)
    error = problem_details_naive.ProblemException(404, "no call", {"status": 200})
    fails(app, error)
    async with client_of(app) as client:
        response = await client.get("/fails?token=secret")

    assert response.status_code == 404
    assert response.json()["status"] == 200
    assert response.headers["content-type"] == "application/json" != MEDIA_TYPE
    assert response.json()["instance"] == "http://pbx/fails?token=secret"
    proof.breaks(
        "A 404 is raised with a further member called status.",
        "The answer has status 404, and its body says 200.",
    )
    proof.breaks(
        "The address has a token in its query.",
        "The body repeats it, and the media type is application/json.",
    )


async def test_without_it_what_the_framework_raises_is_no_problem(proof: Proof) -> None:
    app = FastAPI()
    problem_details_naive.install_problem_handlers(app)
    async with client_of(app) as client:
        response = await client.get("/nothing")

    assert response.json() == {"detail": "Not Found"}
    proof.breaks(
        "A path is asked for that does not exist.",
        "The framework answers by itself, in another form.",
    )


async def test_without_it_a_detail_of_a_503_tells_all(proof: Proof) -> None:
    app = FastAPI()
    problem_details_naive.install_problem_handlers(app)
    fails(app, HTTPException(503, f"cannot connect to postgresql://pbx:{CANARY}@db"))
    async with client_of(app) as client:
        response = await client.get("/fails")
    assert CANARY in response.text
    proof.breaks(
        "A 503 is raised with the text of an exception.",
        "The client reads the password of the database.",
    )
