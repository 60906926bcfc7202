"""What a client and the log are told of the errors that a registry knows."""

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from catalogue.plugin import Proof
from snippets.errors import error_registry_naive
from snippets.errors.error_registry import AppError, ErrorCode, Registry
from snippets.errors.safe_errors import install_safety_net
from tests.support.problems import CANARY, client_of, log_text, problem, records


class ExtensionError(AppError):
    """Something is wrong with an extension."""

    code = ErrorCode("/problems/extension", 400, "Not with this extension")


class TakenError(ExtensionError):
    """Somebody has it."""

    code = ErrorCode("/problems/taken", 409, "It is taken", ("number", "free"))


class TakenByFaxError(TakenError):
    """A fax has it, which is nobody's business."""


class UnlistedError(TakenByFaxError):
    """Its code was forgotten in the registry."""

    code = ErrorCode("/problems/unlisted", 418, "Forgotten")


class ExchangeError(AppError):
    """The exchange does not answer."""

    code = ErrorCode(
        "/problems/exchange", 503, "Try later", ("dsn",), {"Retry-After": "7"}
    )


class StrangeError(AppError):
    """An error without any code."""


def translate(error: OSError) -> ErrorCode | None:
    """Return a code for what the network raises, unless it is a time-out."""
    return None if isinstance(error, TimeoutError) else ExchangeError.code


@pytest.fixture
def registry() -> Registry:
    """A registry of three codes."""
    return Registry(
        TakenError.code,
        ExchangeError.code,
        ExtensionError.code,
        translate={OSError: translate},
    )


@pytest.fixture
def app(registry: Registry) -> FastAPI:
    """An application with it."""
    app = FastAPI()
    registry.install(app)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with client_of(install_safety_net(app, environment="production")) as client:
        yield client


def fails(app: FastAPI, error: Exception) -> None:
    """Give an application a route that raises."""

    async def fail() -> None:
        raise error

    app.add_api_route("/fails", fail)


def test_a_type_that_is_there_twice_is_refused_and_both_codes_are_named() -> None:
    first = ErrorCode("/problems/taken", 409, "It is taken")
    second = ErrorCode("/problems/taken", 404, "It is gone")
    for other in (second, first):
        with pytest.raises(ValueError, match="twice") as raised:
            Registry(first, other)
        assert repr(first) in str(raised.value)
        assert repr(other) in str(raised.value)


@pytest.mark.parametrize("name", ["status", "type", "instance", "detail", "request_id"])
def test_a_code_cannot_show_a_member_with_a_standard_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ErrorCode("/problems/taken", 409, "It is taken", (name,))


def test_a_code_needs_a_status_of_an_error_and_a_uri_reference() -> None:
    with pytest.raises(ValueError, match="200 is no error"):
        ErrorCode("/problems/fine", 200, "Fine")
    with pytest.raises(ValueError, match="no reference"):
        ErrorCode("not a reference", 409, "It is taken")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "\u20ac"),
        ("X", "a\r\nb"),
        ("X", ""),
        ("X", " a"),
        ("X Y", "a"),
        ("", "a"),
    ],
)
def test_a_code_with_a_header_that_could_not_be_sent_is_refused(
    name: str, value: str
) -> None:
    with pytest.raises(ValueError, match="no headers"):
        ErrorCode("/problems/taken", 409, "It is taken", headers={name: value})


@pytest.mark.parametrize(
    ("kind", "type_uri", "status"),
    [
        (ExtensionError, "/problems/extension", 400),
        (TakenError, "/problems/taken", 409),
        (TakenByFaxError, "/problems/taken", 409),
        (UnlistedError, "/problems/taken", 409),
        (ExchangeError, "/problems/exchange", 503),
        (ConnectionRefusedError, "/problems/exchange", 503),
    ],
)
async def test_an_error_is_answered_by_the_code_of_its_nearest_known_class(
    app: FastAPI,
    client: httpx.AsyncClient,
    kind: type[Exception],
    type_uri: str,
    status: int,
) -> None:
    fails(app, kind())
    document = problem(await client.get("/fails"), status)
    assert document["type"] == type_uri


@pytest.mark.parametrize("error", [StrangeError(CANARY), TimeoutError(CANARY)])
async def test_an_error_without_a_code_is_unhandled(
    app: FastAPI,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    fails(app, error)
    document = problem(await client.get("/fails"), 500)
    assert document["type"] == "about:blank"
    (record,) = records(caplog)
    assert record.exc_info
    assert record.exc_info[1] is error


async def test_a_translation_to_no_code_is_the_last_word_whatever_its_parents_have(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    registry = Registry(
        ExchangeError.code,
        translate={OSError: lambda _: ExchangeError.code, TimeoutError: lambda _: None},
    )
    assert registry.code_of(TimeoutError()) is None
    assert registry.code_of(ConnectionError()) is ExchangeError.code
    registry.install(app)
    fails(app, TimeoutError(CANARY))
    problem(await client.get("/fails"), 500)


def test_a_code_that_only_looks_like_a_listed_one_is_not_listed(
    registry: Registry,
) -> None:
    class ForgedError(ExtensionError):
        """Has the type of a listed code, and another status."""

        code = ErrorCode("/problems/taken", 410, "It is gone")

    assert registry.code_of(ForgedError()) is ExtensionError.code


async def test_a_handler_of_a_nearer_class_comes_first(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.exception_handler(TakenByFaxError)
    async def fax(_: Request, __: Exception) -> Response:
        return Response(status_code=204)

    fails(app, TakenByFaxError())
    assert (await client.get("/fails")).status_code == 204


async def test_only_listed_members_are_shown_and_the_message_never(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    error = TakenError(
        f"{CANARY} owns it", number="1001", tenant_id=CANARY, status=200, model=CANARY
    )
    error.add_note(CANARY)
    fails(app, error)

    document = problem(await client.get("/fails"), 409)

    assert document.pop("request_id")
    assert document == {
        "type": "/problems/taken",
        "title": "It is taken",
        "status": 409,
        "instance": "/fails",
        "number": "1001",
    }


async def test_a_member_may_have_any_other_name(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    class WordedError(AppError):
        """Shows members that are called like parameters."""

        code = ErrorCode("/problems/worded", 409, "Words", ("message", "self"))

    Registry(WordedError.code).install(app)
    fails(app, WordedError(CANARY, message="try 1002", self="1001"))
    document = problem(await client.get("/fails"), 409)
    assert (document["message"], document["self"]) == ("try 1002", "1001")
    assert CANARY not in str(document)


async def test_of_a_5xx_not_even_listed_members_are_shown(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    fails(app, ExchangeError(CANARY, dsn=CANARY))
    response = await client.get("/fails")
    document = problem(response, 503)
    assert document["title"] == "Try later"
    assert response.headers["retry-after"] == "7"
    assert CANARY not in response.text


async def test_a_5xx_is_logged_once_with_its_chain_its_code_and_the_id(
    app: FastAPI,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    proof: Proof,
) -> None:
    error = ExchangeError("no answer")
    error.__cause__ = ConnectionError("refused")
    fails(app, error)

    response = await client.get("/fails")

    (record,) = records(caplog)
    assert (record.levelno, record.exc_info and record.exc_info[1]) == (40, error)
    assert vars(record)["code"] == "/problems/exchange"
    assert vars(record)["request_id"] == response.headers["x-request-id"]
    assert caplog.text.count("ConnectionError: refused") == 1
    proof.cost("an error with its causes", log_records=1)


async def test_a_4xx_is_logged_once_by_the_names_of_its_chain(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    error = TakenError(CANARY, number="1001")
    error.__cause__ = LookupError(CANARY)
    error.__cause__.__context__ = KeyError(CANARY)
    error.__cause__.__context__.__cause__ = error  # a circle
    fails(app, error)

    response = await client.get("/fails")

    (record,) = records(caplog)
    identity = response.headers["x-request-id"]
    start = (
        f"/problems/taken in request {identity}: TakenError from LookupError from Key"
    )
    assert record.getMessage().startswith(start)
    assert record.getMessage().count(" from ") == 9
    assert vars(record)["code"] == "/problems/taken"
    assert CANARY not in log_text(caplog)


def test_the_registry_lists_what_may_be_published_of_its_codes(
    registry: Registry,
) -> None:
    assert registry.types() == [
        {
            "type": "/problems/exchange",
            "status": 503,
            "title": "Try later",
            "members": ["dsn"],
        },
        {
            "type": "/problems/extension",
            "status": 400,
            "title": "Not with this extension",
            "members": [],
        },
        {
            "type": "/problems/taken",
            "status": 409,
            "title": "It is taken",
            "members": ["number", "free"],
        },
    ]


async def test_without_it_an_attribute_of_the_exception_is_in_the_answer(
    proof: Proof,
) -> None:
    app = FastAPI()
    error_registry_naive.install_handler(app)
    naive = error_registry_naive.NotFoundError
    fails(app, naive("no call 7", tenant_id=CANARY, status=200))
    async with client_of(app) as client:
        response = await client.get("/fails")

    assert response.json()["tenant_id"] == CANARY
    proof.breaks(
        "An error is raised with the tenant's id, for the log.",
        "The id is in the answer.",
    )
    assert response.status_code == 200
    proof.breaks(
        "Something called status is kept with an error, for the log as well.",
        "It is the status of the answer: 200.",
    )
