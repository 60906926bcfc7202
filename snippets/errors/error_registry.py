"""Give each error of a service one code, and show of it only what the code allows.

An `ErrorCode` is a type of RFC 9457 with its status, its title and the names of the
members that a client may see; nothing else of an exception leaves the service, not even
its message. An exception is answered by the code of its nearest class that the registry
knows. Exceptions of libraries get one by `translate`.

Each is logged once with code and request id: a 5xx with its traceback, a 4xx with the
names of the classes of its chain, since a message may quote what was refused.

Source: RFC 9457, sections 3.1.1 and 4.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fastapi import FastAPI, Request, Response

from snippets.errors.problem_details import (
    SERVER_ERROR,
    ProblemException,
    ProblemType,
    problem_response,
    request_id,
)

LONGEST_CHAIN = 10
HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+: [!-~]+( +[!-~]+)*", re.ASCII)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ErrorCode:
    """What a client may rely on: the type is a URI reference that never changes.

    `members` names what may be shown of an error's context, and `headers` are sent
    along. Raises what `ProblemException` raises, also for headers that none could be.
    """

    type: str
    status: int
    title: str
    members: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a code that could not be answered."""
        self.problem(dict.fromkeys(self.members))
        if not all(HEADER.fullmatch(f"{k}: {v}") for k, v in self.headers.items()):
            raise ValueError(f"no headers: {self.headers}")

    def problem(self, context: Mapping[str, object]) -> ProblemException:
        """Return the problem with those members of the context that may be shown."""
        shown = {name: context[name] for name in self.members if name in context}
        return ProblemException(
            self.status,
            kind=ProblemType(self.type, self.title),
            headers=self.headers,
            members=shown,
        )


class AppError(Exception):
    """An error of this service; a subclass without a code has that of its parent.

    The message is for the log, and so is what of the context the code does not show.
    """

    code: ClassVar[ErrorCode]

    def __init__(self, message: str = "", /, **context: object) -> None:
        """Say what happened, in words that stay here."""
        super().__init__(message)
        self.context = context


Translate = Mapping[type[Exception], Callable[[Any], ErrorCode | None]]


class Registry:
    """All codes of a service, each type once."""

    def __init__(self, *codes: ErrorCode, translate: Translate | None = None) -> None:
        """Raise `ValueError` if two codes have one type.

        `translate` has the last word on an exception of a library, and its subclasses.
        """
        self._codes: dict[str, ErrorCode] = {}
        self._translate = dict(translate or {})
        for code in codes:
            if code.type in self._codes:
                raise ValueError(f"one type twice: {self._codes[code.type]} and {code}")
            self._codes[code.type] = code

    def types(self) -> list[dict[str, object]]:
        """Return what may be published of all codes, ordered by type."""
        return [
            {
                "type": code.type,
                "status": code.status,
                "title": code.title,
                "members": list(code.members),
            }
            for _, code in sorted(self._codes.items())
        ]

    def code_of(self, error: Exception) -> ErrorCode | None:
        """Return the code of the nearest class that has one here."""
        for kind in type(error).__mro__:
            translate = self._translate.get(kind)
            code = translate(error) if translate else vars(kind).get("code")
            if isinstance(code, ErrorCode) and self._codes.get(code.type) is code:
                return code
            if translate:
                break
        return None

    def install(self, app: FastAPI) -> None:
        """Have an application answer these errors; others pass as if unhandled."""

        async def answer(request: Request, error: Exception) -> Response:
            if (code := self.code_of(error)) is None:
                raise error
            _log(error, code, request_id(request.scope))
            context = error.context if isinstance(error, AppError) else {}
            return problem_response(request.scope, code.problem(context))

        app.add_exception_handler(AppError, answer)
        for kind in self._translate:
            app.add_exception_handler(kind, answer)


def _log(error: Exception, code: ErrorCode, identity: str | None) -> None:
    about = {"code": code.type, "request_id": identity}
    if code.status >= SERVER_ERROR:
        message = "%(code)s in request %(request_id)s"
        logger.error(message, about, exc_info=error, extra=about)
        return
    names: list[str] = []
    cause: BaseException | None = error
    while cause and len(names) < LONGEST_CHAIN:
        names.append(type(cause).__qualname__)
        hidden = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or hidden
    message = "%(code)s in request %(request_id)s: %(chain)s"
    logger.info(message, {**about, "chain": " from ".join(names)}, extra=about)
