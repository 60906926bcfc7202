"""Authenticate each request by one header, in FastAPI.

`get_current_user` is a dependency that returns the caller, or answers 401 for a token
that is no good and 503 while nobody can say; `get_optional_user` returns None for a
request without a token, but refuses a bad one. A header that is sent twice, or that
does not hold a token, is refused before anybody is asked. OpenAPI shows the scheme.

Another header, or `Authorization: Bearer`, is an object of `TokenAuth`. Tests replace
the client by `dependency_overrides[get_auth_client]`.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Security
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.base import SecurityBase

from snippets.auth.token_auth import (
    TOKEN,
    AuthClient,
    AuthUser,
    InvalidTokenError,
    utc_now,
)

CHALLENGE = "auth_challenge"
"""Under which the scope has how to authenticate, for a token that ends meanwhile."""


async def get_auth_client(connection: HTTPConnection) -> AuthClient:
    """Return the process's client, which the lifespan keeps in `app.state`."""
    client: AuthClient = connection.app.state.auth_client
    return client


class TokenHeader(SecurityBase):
    """Reads the token from a header of this name; `Authorization` means Bearer."""

    def __init__(self, name: str = "X-Auth-Token") -> None:
        """Describe the header for OpenAPI."""
        is_bearer = name.lower() == "authorization"
        scheme = HTTPBearer() if is_bearer else APIKeyHeader(name=name)
        self.model, self.scheme_name = scheme.model, name
        self.challenge = "Bearer" if is_bearer else "APIKey"
        self._name, self._prefix = name, "bearer " if is_bearer else ""

    async def __call__(self, connection: HTTPConnection) -> str | None:
        """Return the token, or None without such a header."""
        connection.scope[CHALLENGE] = self.challenge
        values = connection.headers.getlist(self._name)
        if not values:
            return None
        start, token = values[0][: len(self._prefix)], values[0][len(self._prefix) :]
        is_one = len(values) == 1 and start.lower() == self._prefix
        if not (is_one and TOKEN.fullmatch(token)):
            raise InvalidTokenError(self.challenge)
        return token


class TokenAuth:
    """The dependencies of a service whose clients send their token in this header."""

    def __init__(
        self,
        header: str = "X-Auth-Token",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Make both; an application needs one object of this class."""
        scheme = TokenHeader(header)

        async def optional_user(
            token: Annotated[str | None, Security(scheme)],
            client: Annotated[AuthClient, Depends(get_auth_client)],
        ) -> AuthUser | None:
            if token is None:
                return None
            try:
                user = await client.get_user(token)
            except InvalidTokenError:
                raise InvalidTokenError(scheme.challenge) from None
            if user.expires_at <= clock():
                raise InvalidTokenError(scheme.challenge)
            return user

        async def user(
            user: Annotated[AuthUser | None, Depends(optional_user)],
        ) -> AuthUser:
            if user is None:
                raise InvalidTokenError(scheme.challenge)
            return user

        self.user: Callable[..., Awaitable[AuthUser]] = user
        """The caller, who must have a token."""
        self.optional_user: Callable[..., Awaitable[AuthUser | None]] = optional_user
        """The caller, or None without a token; a bad token is an error here too."""


_IN_X_AUTH_TOKEN = TokenAuth()
get_current_user = _IN_X_AUTH_TOKEN.user
get_optional_user = _IN_X_AUTH_TOKEN.optional_user
