"""Say what a verified token tells, who verifies it, and how that may fail.

An `AuthClient` returns an `AuthUser` or raises one of three errors: the token is no
good (status 401), it lacks a permission (403), or nobody can say at the moment (503).
As they are HTTP exceptions of three classes, raised where they are found out, nothing
translates one into another. No error, log record or `repr` has a token, and Pydantic's
JSON hides it.

`auth_service` is the client that asks by HTTP, `token_cache` one that remembers, and
`current_user` asks for each request. `FakeAuthClient` is for development and tests: its
users are made up, so it runs nowhere else.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from fastapi import HTTPException
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, SecretStr

from snippets.auth.acl import AccessCheck

# No segment is `.` or `..`: in the path of a URL these would name another resource.
TOKEN = re.compile(r"(?!(?:.*/)?\.\.?(?:/|\Z))[A-Za-z0-9._~+/-]{1,4096}={0,2}")
"""The syntax of a token, which is that of RFC 6750, section 2.1."""


class InvalidTokenError(HTTPException):
    """Status 401: the token is missing, malformed, unknown or expired."""

    def __init__(self, challenge: str = "APIKey") -> None:
        """Say by `challenge` how to authenticate (RFC 9110, 11.6.1)."""
        super().__init__(401, "no valid token", {"WWW-Authenticate": challenge})


class PermissionDeniedError(HTTPException):
    """Status 403: the token is valid, and lacks a permission."""

    def __init__(self, detail: str = "not permitted") -> None:
        """Say what is missing, and nothing of what the caller has."""
        super().__init__(403, detail)


class AuthUnavailableError(HTTPException):
    """Status 503: nobody can say at the moment whether the token is valid."""

    def __init__(self, retry_after: int = 5) -> None:
        """Ask the client to come again in so many seconds."""
        headers = {"Retry-After": str(retry_after)}
        super().__init__(503, "tokens cannot be verified", headers)


def utc_now() -> datetime:
    """Return the time; the default of all clocks here."""
    return datetime.now(UTC)


class AuthUser(BaseModel):
    """Whom a token speaks for, and what it allows; the ids are compared as text."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    token: SecretStr
    auth_id: str
    session_uuid: str
    issued_at: AwareDatetime
    expires_at: AwareDatetime
    tenant_uuid: UUID | None = None
    acl: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = {}

    @property
    def access(self) -> AccessCheck:
        """What it allows; `my_tenant` is its own tenant, for whichever it acts."""
        tenant = str(self.tenant_uuid) if self.tenant_uuid else None
        return AccessCheck(self.auth_id, self.session_uuid, self.acl, tenant)


class AuthClient(Protocol):
    """Who can be asked about a token; each method raises the errors above."""

    async def get_user(self, token: str) -> AuthUser:
        """Return whose token it is."""

    async def check(
        self, token: str, *, scope: str | None = None, tenant: UUID | None = None
    ) -> None:
        """Pass if the token allows `scope` and may act for `tenant`."""


class FakeAuthClient:
    """Knows the tokens that it was given, and is down while `is_down`.

    Raises `ValueError` for an environment in which made-up users could log in.
    """

    def __init__(
        self, environment: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """Know nobody."""
        if environment not in {"development", "test"}:
            raise ValueError(f"no made-up users in {environment!r}")
        self.is_down = False
        self._clock = clock
        self._known: dict[str, tuple[AuthUser, frozenset[UUID | None]]] = {}

    def add(self, user: AuthUser, *tenants: UUID) -> None:
        """Let the user's token act for its own tenant and for these."""
        visible = frozenset((user.tenant_uuid, None, *tenants))
        self._known[user.token.get_secret_value()] = user, visible

    def add_persona(self, name: str, *acl: str, tenant: UUID | None = None) -> None:
        """Let somebody be known for a day, whose id and token are the name."""
        now = self._clock()
        user = AuthUser(
            token=SecretStr(name),
            auth_id=name,
            session_uuid=f"session-of-{name}",
            issued_at=now,
            expires_at=now + timedelta(days=1),
            tenant_uuid=tenant,
            acl=acl,
        )
        self.add(user)

    def revoke(self, token: str) -> None:
        """Forget a token."""
        self._known.pop(token, None)

    async def get_user(self, token: str) -> AuthUser:
        """Return whose token it is."""
        return self._find(token)[0]

    async def check(
        self, token: str, *, scope: str | None = None, tenant: UUID | None = None
    ) -> None:
        """Pass if the token allows `scope` and may act for `tenant`."""
        user, visible = self._find(token)
        if tenant not in visible or not user.access.matches_required_access(scope):
            raise PermissionDeniedError

    def _find(self, token: str) -> tuple[AuthUser, frozenset[UUID | None]]:
        if self.is_down:
            raise AuthUnavailableError
        user, visible = self._known.get(token, (None, frozenset()))
        if user is None or user.expires_at <= self._clock():
            raise InvalidTokenError
        return user, visible
