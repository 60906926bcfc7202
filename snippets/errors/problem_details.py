"""Answer every HTTP error of a FastAPI application with a problem document.

Each `HTTPException` becomes `application/problem+json`, also those of Starlette: an
unknown path, a wrong method, a malformed form. It does so whatever `Accept` asks for.
Headers of a 4xx are kept if they can be sent. Of a 5xx the client is told the status,
type, title and `Retry-After`; the exception is logged once, with the request's id.

Unhandled exceptions and what middleware answers by itself are for `safe_errors`.

Source: RFC 9457, which replaces RFC 7807.
"""

import http.client
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.exceptions import HTTPException
from starlette.types import Scope

CLIENT_ERROR, SERVER_ERROR, BEYOND = 400, 500, 600
MEDIA_TYPE, OURS = "application/problem+json", ("content-type", "content-length")
REFERENCE = re.compile(r"[!#-;=?-\[\]_a-z~]+")
SENDABLE = re.compile(r"|[!-~\x80-\xff]+([ \t]+[!-~\x80-\xff]+)*")
# RFC 9110 has new names for two, and Python from 3.13 on.
RENAMED = {413: "Content Too Large", 422: "Unprocessable Content"}
PHRASES = http.client.responses | RENAMED

logger = logging.getLogger(__name__)


class ProblemDetail(BaseModel):
    """What a client is told; further members are extensions."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", json_schema_extra={"format": "uri-reference"})
    title: str
    status: int = Field(ge=400, le=599)
    detail: str | None = None
    instance: str | None = None
    request_id: str | None = None


class ProblemType(NamedTuple):
    """What sort of problem it is: a URI reference, and a title that never changes."""

    uri: str = "about:blank"
    title: str = ""


BLANK = ProblemType()


class ProblemException(HTTPException):
    """An HTTPException that has a problem type and extension members as well.

    A member that cannot be written as JSON is left out of the answer. Raises
    `ValueError` for a member with a name of `ProblemDetail`, a status that is no error,
    and a type that is no URI reference.
    """

    def __init__(
        self,
        status: int,
        detail: str | None = None,
        *,
        kind: ProblemType = BLANK,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        """Say what happened, in words for the client."""
        self.kind, self.members = kind, dict(members or {})
        if reserved := ProblemDetail.model_fields.keys() & self.members.keys():
            raise ValueError(f"no names for extensions: {sorted(reserved)}")
        if not CLIENT_ERROR <= status < BEYOND or not REFERENCE.fullmatch(kind.uri):
            raise ValueError(f"{status} is no error, or {kind.uri!r} no reference")
        super().__init__(status, detail, headers)


def request_id(scope: Scope) -> str | None:
    """Return the id that a middleware put into the request's state, if one did."""
    found = scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else None


def problem_response(scope: Scope, error: HTTPException) -> Response:
    """Return the answer; without a body if the status is no error, such as 304."""
    headers, status = dict(error.headers or {}), error.status_code
    if not CLIENT_ERROR <= status < BEYOND:
        return Response(status_code=status, headers=headers)
    for name, value in list(headers.items()):
        hidden = status >= SERVER_ERROR and name.lower() != "retry-after"
        if hidden or name.lower() in OURS or not SENDABLE.fullmatch(value):
            del headers[name]
    response = Response(_body(scope, error), status, headers, MEDIA_TYPE)
    if scope.get("method") == "HEAD":
        response.body = b""  # Content-Length stays what it is for GET
    return response


def _body(scope: Scope, error: HTTPException) -> bytes:
    status = error.status_code
    detail: object = error.detail  # FastAPI's may be anything
    phrase = PHRASES.get(status, "Error")
    kind, members = BLANK, dict[str, object]()
    if isinstance(error, ProblemException):
        kind, members = error.kind, dict(error.members)
    document: dict[str, object] = {"type": kind.uri, "title": kind.title or phrase}
    document["status"] = status
    if status >= SERVER_ERROR:
        members.clear()
    elif not isinstance(detail, str):
        members["details"] = detail
    elif detail not in (phrase, http.client.responses.get(status, "")):
        document["detail"] = detail
    path = "/" + scope["path"].lstrip("/")  # two slashes would begin a host
    document["instance"] = quote(path, errors="replace")
    if identity := request_id(scope):
        document["request_id"] = identity
    whole = document | dict(_plain(members)) | document
    return json.dumps(whole, ensure_ascii=False).encode(errors="replace")


def _plain(members: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the members that JSON can hold, as it holds them."""
    keep_nan = ConfigDict(ser_json_inf_nan="constants")  # for `json` to refuse it
    adapter = TypeAdapter[object](object, config=keep_nan)
    for name, value in members.items():
        with suppress(Exception):  # whatever a member of the service's own raises
            plain = adapter.dump_python(value, mode="json")
            yield name, json.loads(json.dumps(plain, allow_nan=False))


def install_problem_handlers(app: FastAPI) -> None:
    """Have an application answer its HTTPExceptions with problem documents."""

    @app.exception_handler(HTTPException)
    async def answer(request: Request, error: HTTPException) -> Response:
        if error.status_code >= SERVER_ERROR:
            extra = {"request_id": request_id(request.scope)}
            message = "request %(request_id)s was answered with a 5xx"
            logger.error(message, extra, exc_info=error, extra=extra)
        return problem_response(request.scope, error)
