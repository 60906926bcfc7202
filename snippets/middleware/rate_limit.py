"""Refuse requests above a rate with status 429, and say when to come back.

`RateLimitMiddleware` counts every request, also for what is not there; `rate_limit`
is a dependency for one route, where path, user or tenant is known and a request may
cost several units. Answers carry `RateLimit-Limit`, `-Remaining` and `-Reset`, a
refusal `Retry-After` as well, both in whole seconds. Where the two meet, the headers
are the dependency's. While nothing can be counted, a closed limiter refuses with 503.
FastAPI answers an unhandled exception outside of all that `add_middleware` installs:
that 500 is counted, but has headers only if the middleware is around the finished app.

What a client is called by is `key`'s to say: take it from a verified token, or from
`client_network`, never from a header that the client writes.

One file travels along, `rate_limiter`, which counts.

Source: RFC 6585 for 429, RFC 9110 for Retry-After, RFC 9457 for the body, and
draft-ietf-httpapi-ratelimit-headers-06 for the other headers.
"""

import re
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snippets.middleware.rate_limiter import RateLimiter, Verdict

Key = Callable[[Scope], str]


class RateLimited(HTTPException):
    """A refusal: 429, or 503 where nothing can be counted."""

    def __init__(self, verdict: Verdict) -> None:
        """Say why, and when to come back."""
        status, detail = 429, "too many requests"
        if not verdict.is_counted:
            status, detail = 503, "requests cannot be counted now"
        super().__init__(status, detail, _headers(verdict))


class RateLimitMiddleware:
    """Counts each HTTP request, except those to `exempt` paths and what is below them.

    Websockets and lifespan pass. Paths are those below the application's root; one that
    `..` leads elsewhere is not exempt.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limiter: RateLimiter,
        key: Key,
        exempt: Collection[str] = (),
    ) -> None:
        """Keep what decides; raises `ValueError` if everything would be exempt."""
        self.app = app
        self.limiter = limiter
        self.key = key
        self.exempt = paths_below(exempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its headers, or refuse it."""
        if scope["type"] != "http" or self._is_exempt(scope):
            await self.app(scope, receive, send)
            return
        verdict = await self.limiter.check(self.key(scope))
        if not verdict.allowed:
            await refusal(scope, RateLimited(verdict))(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _headers(verdict).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _is_exempt(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return self.exempt.fullmatch(path) is not None


def paths_below(paths: Collection[str]) -> re.Pattern[str]:
    """Return what matches these paths and whole segments below, but no way out."""
    if not all(re.match("/[^/]", path) for path in paths):
        raise ValueError(f"{paths!r} are no paths below the root")
    roots = "|".join(re.escape(path.rstrip("/")) for path in paths) or "(?!)"
    return re.compile(rf"(?:{roots})(?:/(?!\.\.?(?:/|\Z))[^/\\]*)*")


def rate_limit(
    limiter: RateLimiter, *, key: Key, cost: int = 1
) -> Callable[[Request, Response], Awaitable[None]]:
    """Return a dependency that counts a request as `cost` units.

    It raises `RateLimited`; `refusal` makes of that what the middleware answers. The
    headers are on what FastAPI makes of the route's result, so a response that the
    route makes itself, or an error, goes without.
    """

    async def check(request: Request, response: Response) -> None:
        verdict = await limiter.check(key(request.scope), cost)
        if not verdict.allowed:
            raise RateLimited(verdict)
        response.headers.update(_headers(verdict))

    return check


def refusal(scope: Scope, error: RateLimited) -> JSONResponse:
    """Return a problem document with the request's id, if it has one."""
    path = "/" + scope["path"].lstrip("/")  # two slashes would begin a host
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": error.detail,
        "instance": quote(path),
    }
    if request_id := scope.get("state", {}).get("request_id"):
        problem["request_id"] = request_id
    return JSONResponse(
        problem,
        error.status_code,
        headers=error.headers,
        media_type="application/problem+json",
    )


def _headers(verdict: Verdict) -> dict[str, str]:
    if not verdict.is_counted:
        return {}
    headers = {
        "RateLimit-Limit": str(verdict.limit),
        "RateLimit-Remaining": str(verdict.remaining),
        "RateLimit-Reset": str(verdict.reset),
    }
    if verdict.retry_after is not None:
        headers["Retry-After"] = str(verdict.retry_after)
    return headers
