"""Tell a client which of its values are wrong, and repeat none of them.

A request that does not fit is answered 422, with one entry for each place, at most 50.
What is not JSON is answered 400, also NaN, infinity, lone surrogates, endless nesting.
Messages are pydantic's, cut before what the model does not decide: a `ValueError` may
quote it. For its own words, a validator raises `PydanticCustomError` without a context.

Data of the service that does not fit its model is raised again without the values, as
`InvalidDataError`, which is a 500. In a task, a stream, a group or a cause it is not:
set `hide_input_in_errors` there. A mounted application needs handlers of its own.

Source: RFC 9457, section 3; RFC 6901 for the pointers.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Never

from fastapi import Depends, FastAPI, Request, Response, WebSocket
from fastapi.exceptions import (
    RequestValidationError,
    ResponseValidationError,
    WebSocketRequestValidationError,
)
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, ValidationError
from starlette.routing import Route

from snippets.errors.problem_details import (
    ProblemDetail,
    ProblemException,
    problem_response,
)

MOST_ERRORS, MOST_READ, MOST_WAYS = 50, 500, 8
LONGEST_POINTER, LONGEST_MESSAGE = 256, 1000  # characters; what is longer is cut
LOCATIONS = ("body", "query", "path", "header", "cookie")
MODEL_SAYS = """actual_length decimal_places discriminator expected expected_schemes ge
field_type gt le lt max_digits max_length min_length multiple_of pattern whole_digits"""
# Seldom in a body, and searched for faster than the body is parsed a second time.
NUMBER = rb"NaN|Infinity|\d[eE]\+?\d\d+([\s,\]}]|$)|(?<!\d)\d{300}"
SUSPECT = re.compile(NUMBER + rb"|\0|\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
NOT_JSON = "The body is not JSON."
OwnError = ResponseValidationError | ValidationError


class FieldError(BaseModel):
    """What is wrong at the place to which `pointer` leads within `location`."""

    location: str
    pointer: str
    type: str
    message: str


class ValidationProblem(ProblemDetail):
    """A problem and its places; `truncated` when there are more of them."""

    errors: list[FieldError]
    truncated: bool


class InvalidDataError(Exception):
    """Data of the service does not fit its model; here is where, and not the data."""


def install_validation_handler(app: FastAPI) -> None:
    """Have an application answer invalid requests with problem documents.

    Raises `RuntimeError` once there are routes: they would let NaN pass.
    """
    if any(type(route) is not Route for route in app.routes):
        raise RuntimeError("install the validation handler before there are routes")
    app.router.dependencies.append(Depends(_refuse_lax_json))

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.__cause__, json.JSONDecodeError):
            return problem_response(request.scope, ProblemException(400, NOT_JSON))
        places: dict[tuple[str, str], FieldError] = {}
        for one in error.errors()[:MOST_READ]:
            found = _field_error(one, error.body)
            known = places.setdefault((found.location, found.pointer), found)
            if found.message not in known.message:
                known.message = f"{known.message}; {found.message}"[:LONGEST_MESSAGE]
            if len(places) > MOST_ERRORS:
                break
        more = len(places) > MOST_ERRORS or len(error.errors()) > MOST_READ
        members = {"errors": list(places.values())[:MOST_ERRORS], "truncated": more}
        return problem_response(request.scope, ProblemException(422, members=members))

    @app.exception_handler(WebSocketRequestValidationError)
    async def close(websocket: WebSocket, _: WebSocketRequestValidationError) -> None:
        await websocket.close(1008)

    @app.exception_handler(ResponseValidationError)
    @app.exception_handler(ValidationError)
    async def forget(_: Request, error: OwnError) -> Never:
        whose = getattr(error, "title", None) or getattr(error, "endpoint_function", "")
        places = [".".join(map(str, one["loc"])) for one in error.errors()]
        clean = InvalidDataError(f"{whose}: {places[:MOST_ERRORS]}")
        raise clean.with_traceback(error.__traceback__) from None


def _field_error(error: Mapping[str, Any], body: object) -> FieldError:
    location, *path = error["loc"] or ("body",)
    if location not in LOCATIONS:  # of a model that the endpoint validated itself
        location, path = "body", list(error["loc"])
    elif location != "body":
        path = path[:1] + [part for part in path[1:] if isinstance(part, int)]
    elif body is not None or error.get("input") is None:
        path = _way(path, body, error)
    tokens = [str(part).replace("~", "~0").replace("/", "~1") for part in path]
    pointer = "/".join(["", *tokens, ""])[: LONGEST_POINTER + 1].rpartition("/")[0]
    message: str = error["msg"]
    for name, value in error.get("ctx", {}).items():
        if name not in MODEL_SAYS.split():
            head, found, _ = message.partition(str(value) or message)
            message = head.rstrip(" ,:'") if found else ""
    place = {"location": location, "pointer": pointer, "type": error["type"]}
    return FieldError(**place, message=message or "The value is not valid")


def _way(path: list[Any], body: object, error: Mapping[str, Any]) -> list[Any]:
    """Leave out names of members of a union, so that a path leads to the input."""
    last = path[-1:] if error["type"] == "missing" else []
    ways: list[tuple[Any, list[Any]]] = [(body, [])]
    for part in path[: len(path) - len(last)][:LONGEST_POINTER]:
        longer = [
            (whole[part], [*way, part])
            for whole, way in ways
            if (isinstance(whole, Mapping) and part in whole)
            or (isinstance(whole, list) and part in range(len(whole)))
        ]
        ways = (longer + ways)[:MOST_WAYS]
    found = (way for whole, way in ways if whole is error.get("input"))
    return next(found, ways[0][1]) + last


async def _refuse_lax_json(connection: HTTPConnection) -> None:
    """Refuse what Python's parser takes for JSON and others would not."""
    if not (isinstance(connection, Request) and "_json" in vars(connection)):
        return  # Starlette keeps there what FastAPI has read as JSON
    if SUSPECT.search(body := await connection.body()):
        try:
            whole = json.loads(body.decode())
            json.dumps(whole, allow_nan=False, ensure_ascii=False).encode()
        except (RecursionError, ValueError):
            raise ProblemException(400, NOT_JSON) from None
