"""Ask an auth service about a token by HTTP, as Accent-Auth is asked.

What the service says of the token, and only that, is taken for an answer: 404 means
that it is no good, 403 that it lacks a permission. A connection that is refused or
slow, a redirect, an answer that makes no sense or speaks of another token, and every
other status mean that nobody can say. One time limit holds for all of a call. Only a
connection that did not come about, within a third of it, is tried again, once.

The token is part of the URL, so requests go to an httpx transport and not to an httpx
client, which would log the URL, follow redirects and obey proxies of the environment.
"""

import asyncio
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Annotated, Self
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import (
    AfterValidator,
    AliasPath,
    BaseModel,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
)

from snippets.auth.token_auth import (
    TOKEN,
    AuthUnavailableError,
    AuthUser,
    InvalidTokenError,
    PermissionDeniedError,
)

PATH = "/api/auth/0.1/token/"


def _in_utc(moment: datetime) -> datetime:
    """Take a time without an offset for UTC, in which the service writes it."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("no moment that UTC can express") from None


_Moment = Annotated[datetime, AfterValidator(_in_utc)]


class _Data(BaseModel):
    """What is used of the answer; what else it holds is ignored."""

    token: SecretStr
    auth_id: str
    session_uuid: str
    issued_at: _Moment = Field(validation_alias="utc_issued_at")
    expires_at: _Moment = Field(validation_alias="utc_expires_at")
    tenant_uuid: UUID | None = Field(
        default=None, validation_alias=AliasPath("metadata", "tenant_uuid")
    )
    acl: tuple[str, ...]
    metadata: dict[str, JsonValue]


class _Answer(BaseModel):
    data: _Data


class AuthServiceClient:
    """A client of the service at `base_url`, with `timeout` in seconds for a call.

    Use it as a context manager, or close the transport yourself.
    """

    def __init__(
        self,
        base_url: str,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        timeout: float = 2.0,
    ) -> None:
        """Connect at the first call."""
        self._url = base_url.rstrip("/") + PATH
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def get_user(self, token: str) -> AuthUser:
        """Return whose token it is."""
        response = await self._ask("GET", token, {})
        if response.status_code != httpx.codes.OK:
            raise AuthUnavailableError
        try:
            data = _Answer.model_validate_json(response.content).data
        except ValidationError:  # which would quote the answer
            raise AuthUnavailableError from None
        if not compare_digest(data.token.get_secret_value().encode(), token.encode()):
            raise AuthUnavailableError
        return AuthUser(**dict(data))

    async def check(
        self, token: str, *, scope: str | None = None, tenant: UUID | None = None
    ) -> None:
        """Pass if the token allows `scope` and may act for `tenant`."""
        asked = {"scope": scope, "tenant": tenant}
        params = {name: str(one) for name, one in asked.items() if one is not None}
        response = await self._ask("HEAD", token, params)
        if response.status_code == httpx.codes.FORBIDDEN:
            raise PermissionDeniedError
        if response.status_code != httpx.codes.NO_CONTENT:
            raise AuthUnavailableError

    async def _ask(
        self, method: str, token: str, params: dict[str, str]
    ) -> httpx.Response:
        if not TOKEN.fullmatch(token):
            raise InvalidTokenError
        url = httpx.URL(self._url + quote(token, safe=""))
        try:
            url = url.copy_merge_params(params)
        except (httpx.InvalidURL, UnicodeEncodeError):  # a scope that fits into no URL
            raise PermissionDeniedError from None
        limits = httpx.Timeout(self._timeout, connect=self._timeout / 3).as_dict()
        request = httpx.Request(method, url, extensions={"timeout": limits})
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    response = await self._transport.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    response = await self._transport.handle_async_request(request)
                try:
                    await response.aread()
                finally:
                    await response.aclose()
        except (httpx.RequestError, TimeoutError) as error:
            raise AuthUnavailableError from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise InvalidTokenError
        return response
