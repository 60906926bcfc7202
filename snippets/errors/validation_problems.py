"""Tell a client which of its values are wrong, and repeat none of them.

A request that does not fit is answered 422, with one entry for each place, at most 50.
What is not JSON is answered 400, as are NaN, infinity and endless nesting. Messages
are pydantic's, cut before what the model does not decide: a `ValueError` may quote the
value. For words of its own, a validator raises `PydanticCustomError` without a context.

Data of the service that does not fit its model is raised again without the values, as
`InvalidDataError`, for `safe_errors` to log and to answer 500.

Source: RFC 9457, section 3; RFC 6901 for the pointers.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Never, cast

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

MOST_ERRORS = 50
LONGEST_POINTER = 256  # characters; a longer one leads to what contains the place
MODEL_SAYS = """actual_length decimal_places discriminator expected expected_schemes ge
field_type gt le lt max_digits max_length min_length multiple_of pattern whole_digits"""
# Seldom in a body, and searched for faster than the body is parsed a second time.
SUSPECT = re.compile(rb"NaN|Infinity|[eE]\+?0*[1-9]\d\d|(?<!\d)\d{309}|\x00")
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
    app.router.dependencies.append(Depends(_refuse_non_finite))

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.__cause__, json.JSONDecodeError):
            return problem_response(request.scope, ProblemException(400, NOT_JSON))
        places: dict[tuple[str, str], FieldError] = {}
        for one in error.errors():
            found = _field_error(one, error.body)
            known = places.setdefault((found.location, found.pointer), found)
            if found.message not in known.message:
                known.message += f"; {found.message}"
            if len(places) > MOST_ERRORS:
                break
        errors, truncated = list(places.values()), len(places) > MOST_ERRORS
        members = {"errors": errors[:MOST_ERRORS], "truncated": truncated}
        problem = ProblemException(422, members=members)
        return problem_response(request.scope, problem)

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
    location, *path = error["loc"]
    pointer, inner = "", cast("Any", body)
    for depth, part in enumerate(path, 1):
        if location != "body":
            known = depth == 1 or isinstance(part, int)
        elif inner is not error.get("input") and (
            (isinstance(inner, Mapping) and part in inner)
            or (isinstance(inner, list) and part in range(len(inner)))
        ):
            inner, known = inner[part], True
        else:  # missing, or no place at all but the name of a member of a union
            known = error["type"] == "missing" and depth == len(path)
        token = str(part).replace("~", "~0").replace("/", "~1")
        if len(pointer) + len(token) >= LONGEST_POINTER:
            break
        pointer += f"/{token}" if known else ""
    message: str = error["msg"]
    for name, value in error.get("ctx", {}).items():
        if name not in MODEL_SAYS.split():
            head, found, _ = message.partition(str(value) or message)
            message = head.rstrip(" ,:'") if found else ""
    place = {"location": location, "pointer": pointer, "type": error["type"]}
    return FieldError(**place, message=message or "The value is not valid")


async def _refuse_non_finite(connection: HTTPConnection) -> None:
    """Refuse what Python's parser takes for JSON and is none."""
    is_json = "json" in connection.headers.get("content-type", "").lower()
    reads = getattr(connection.scope.get("route"), "body_field", None) is not None
    if not (isinstance(connection, Request) and is_json and reads):
        return
    body = await connection.body()  # which FastAPI has read and parsed before
    if SUSPECT.search(body):
        try:
            json.loads(body.decode(), parse_constant=_finite, parse_float=_finite)
        except (RecursionError, ValueError):
            raise ProblemException(400, NOT_JSON) from None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number
