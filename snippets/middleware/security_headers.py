"""Give every HTTP response the headers that keep browsers from being turned on users.

A header that the route sets wins, so none stands twice. Install it around the finished
app: then errors, redirects, refusals, static files and the answer to an unhandled
exception have the headers too (see `security_headers_wiring`). The lists are built
once. Websockets pass untouched.

`Strict-Transport-Security` is sent only over https, as RFC 6797 asks. The default
policy allows a page nothing at all, which is right for JSON: pages need their own.

Source: https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

YEAR = 31_536_000  # seconds
NONCE = "{nonce}"
ELSEWHERE = re.compile(r"\\|/\.\.?(?:/|\Z)")
VISIBLE = re.compile(r"[a-z0-9-]+: [\x20-\x7e]*")
DENY_ALL = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DEFAULT_HEADERS = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    }
)


@dataclass(frozen=True)
class HSTS:
    """For how many seconds browsers must come back by https only."""

    max_age: int = YEAR
    include_subdomains: bool = True
    preload: bool = False

    def __post_init__(self) -> None:
        """Raise `ValueError` for what the browsers' preload list would not take."""
        if self.max_age < 0:
            raise ValueError("max_age is in seconds, and not negative")
        if self.preload and not (self.max_age >= YEAR and self.include_subdomains):
            raise ValueError("preload needs a year at least, with subdomains")

    def __str__(self) -> str:
        """Return the header's value."""
        subdomains = "; includeSubDomains" * self.include_subdomains
        return f"max-age={self.max_age}{subdomains}{'; preload' * self.preload}"


class SecurityHeadersMiddleware:
    """Add to each HTTP response the security headers that it lacks."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        policies: Mapping[str, str] = MappingProxyType({}),
        headers: Mapping[str, str] = DEFAULT_HEADERS,
        hsts: HSTS | None = HSTS(),
        trust_forwarded_proto: bool = False,
    ) -> None:
        """Wrap `app`.

        `policies` has the CSP of a path and of what is below it; the longest path wins,
        and where there is none it is `DENY_ALL`. A path that leads elsewhere by `..`
        has that of the root. In a policy `{nonce}` becomes a value that is new for each
        request, and which the page finds in `request.state.csp_nonce`. `headers`
        replaces the other defaults. With `trust_forwarded_proto` the scheme is the one
        in `X-Forwarded-Proto`, which the proxy in front must set itself. Raises
        `ValueError` for what is no header.
        """
        self.app = app
        self.trust_forwarded_proto = trust_forwarded_proto
        others = [(name.lower(), value) for name, value in headers.items()]
        secure = [] if hsts is None else [("strict-transport-security", str(hsts))]
        self._others = _encoded(others), _encoded([*others, *secure])
        by_path = {"/": DENY_ALL, **policies}
        self._policies = [
            (f"{path.rstrip('/')}/", by_path[path], self._whole(by_path[path]))
            for path in sorted(by_path, key=len, reverse=True)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers when the response starts."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        defaults = self._defaults(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                present = {name.lower() for name, _ in headers}
                headers += [one for one in defaults if one[0] not in present]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _defaults(self, scope: Scope) -> Headers:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = "" if ELSEWHERE.search(path) else path
        is_secure = self._is_secure(scope)
        _, policy, whole = next(
            (one for one in self._policies if f"{path}/".startswith(one[0])),
            self._policies[-1],  # that of the root is also for OPTIONS *
        )
        if NONCE not in policy:
            return whole[is_secure]
        nonce = secrets.token_urlsafe(16)
        scope.setdefault("state", {})["csp_nonce"] = nonce
        return self._whole(policy.replace(NONCE, nonce))[is_secure]

    def _whole(self, policy: str) -> tuple[Headers, Headers]:
        own = _encoded([("content-security-policy", policy)])
        plain, secure = self._others
        return own + plain, own + secure

    def _is_secure(self, scope: Scope) -> bool:
        if not self.trust_forwarded_proto:
            return bool(scope["scheme"] == "https")
        name = b"x-forwarded-proto"
        return [value for key, value in scope["headers"] if key == name] == [b"https"]


def _encoded(headers: list[tuple[str, str]]) -> Headers:
    for name, value in headers:
        if not VISIBLE.fullmatch(f"{name}: {value}"):
            raise ValueError(f"{name!r}: {value!r} is no header")
    return tuple(
        (name.encode("ascii"), value.encode("ascii")) for name, value in headers
    )
