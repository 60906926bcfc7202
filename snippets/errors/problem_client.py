"""Turn a service's error answers back into exceptions, with httpx and within bounds.

Every answer of 400 and above is raised. A problem document becomes the exception that
is registered for its type, or a `ProblemError`; so does an answer that is no problem
document, or one of more than 64 KiB, packed or unpacked. Nothing that the other side
sends makes it raise another error, except what httpx raises of a broken connection.

The status is that of the answer, whatever the document says.

Source: RFC 9457, section 3.
"""

import json
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

MOST_BYTES = 64 * 1024
MEDIA_TYPE = "application/problem+json"
STANDARD = {"type", "title", "status", "detail", "instance"}


class ProblemError(Exception):
    """A service answered with an error; derive from it one class for each type.

    `members` are the extensions of the document. They, the title and the detail are the
    other side's words: treat them as input, and show them to nobody unread.
    """

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        """Take what is well formed in the document."""
        super().__init__(status)
        self.status = status
        self.type = _text(document, "type") or "about:blank"
        self.title = _text(document, "title")
        self.detail = _text(document, "detail")
        self.members = {k: v for k, v in document.items() if k not in STANDARD}

    def __str__(self) -> str:
        """Return the status and the type, without line breaks."""
        return f"{self.status} {self.type!r}"


Errors = Mapping[str, type[ProblemError]]


def raise_for_problem(errors: Errors) -> Callable[[httpx.Response], Awaitable[None]]:
    """Return a response hook for `httpx.AsyncClient`; `errors` are the known types.

    A type is compared as it is written in the document, whether relative or absolute.
    A hook sees each answer before an `auth` that has to see a 401 first, such as
    `httpx.DigestAuth`: with one, call what is returned yourself, on streamed answers.
    """

    async def check(response: httpx.Response) -> None:
        if not response.is_error:
            return
        document = await _document(response)
        error = ProblemError(response.status_code, document)
        known = errors.get(error.type, ProblemError)
        raise known(response.status_code, document)

    return check


async def _document(response: httpx.Response) -> dict[str, Any]:
    """Return the problem document, or an empty one."""
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type.strip().lower() != MEDIA_TYPE:
        return {}
    try:
        document = json.loads(await _body(response))
    except (RecursionError, ValueError, zlib.error):
        return {}
    return document if isinstance(document, dict) else {}


async def _body(response: httpx.Response) -> bytes:
    """Return the body unpacked; raise `ValueError` if that would be too much.

    httpx itself would unpack all of it, however much it is.
    """
    if response.is_stream_consumed:
        return response.content  # somebody has read it before
    packed = b""
    async for chunk in response.aiter_raw():
        packed += chunk
        if len(packed) > MOST_BYTES:
            raise ValueError("too long")
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return packed
    if encoding != "gzip":
        raise ValueError("packed in another way")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
    body = unpack.decompress(packed, MOST_BYTES + 1)
    if len(body) > MOST_BYTES or not unpack.eof:
        raise ValueError("too long, or cut off")
    return body


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None
