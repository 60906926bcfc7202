"""Find out for which tenant a request is, and let everything it calls know.

It is the token's tenant, or one that the client names in a header. Another than the
token's must be visible to the token, as the auth service says: else the answer is 403,
whether there is such a tenant or not. It is 400 for a header that is sent twice or is
no UUID in its usual form, and for a token of no tenant without a header; 403 for a
tenant that is not active. Nothing is asked about a tenant that is not known to be
visible, but whether it is.

`get_tenant` is async and holds the tenant until the response, with its background
tasks, is over: async and sync handlers, dependencies and the sessions of `tenancy` have
it. What outlives the request has to be told: put the tenant's id into the message of a
job, and enter `set_tenant` where that is handled.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated
from uuid import UUID
from weakref import WeakValueDictionary

from fastapi import Depends, Header, HTTPException
from fastapi.requests import HTTPConnection

from snippets.auth.current_user import CHALLENGE, get_auth_client, get_current_user
from snippets.auth.tenancy import set_tenant
from snippets.auth.token_auth import (
    AuthClient,
    AuthUser,
    InvalidTokenError,
    PermissionDeniedError,
)


class ActiveTenants:
    """Which tenants are active, as `load` says or said at most `ttl` seconds ago.

    It remembers the answers for `size` tenants. Call `forget` on each event that tells
    of a tenant, in every process: from then on, no request goes by an older answer.
    """

    def __init__(
        self,
        load: Callable[[UUID], Awaitable[bool]],
        *,
        ttl: float = 60,
        size: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know of no tenant."""
        self._load, self._ttl, self._size, self._clock = load, ttl, size, clock
        self._known: dict[UUID, tuple[bool, float]] = {}
        # What is asked, until answered; a set, as object() takes no weak reference.
        self._asked = WeakValueDictionary[UUID, set[None]]()

    async def is_active(self, tenant: UUID) -> bool:
        """Return whether it is; errors of `load` pass, and are not remembered."""
        active, until = self._known.get(tenant, (False, 0.0))
        if tenant in self._known and self._clock() < until:
            return active
        asked = None
        while asked is None or asked is not self._asked.get(tenant):
            asked = self._asked.setdefault(tenant, set())
            until = self._clock() + self._ttl
            active = await self._load(tenant)  # what may be older than an event
        self._known.pop(tenant, None)
        self._known[tenant] = active, until
        if len(self._known) > self._size:
            del self._known[next(iter(self._known))]
        return active

    def forget(self, tenant: UUID) -> None:
        """Ask again about a tenant, whatever was answered so far."""
        self._asked.pop(tenant, None)
        self._known.pop(tenant, None)


async def get_active_tenants(connection: HTTPConnection) -> ActiveTenants:
    """Return the process's object, which the lifespan keeps in `app.state`."""
    active: ActiveTenants = connection.app.state.active_tenants
    return active


async def require_visible(
    connection: HTTPConnection, client: AuthClient, user: AuthUser, tenant: UUID
) -> None:
    """Raise `PermissionDeniedError` unless the user's token may act for a tenant.

    Its own costs nothing, and any other is asked for once in a request.
    """
    if tenant == user.tenant_uuid:
        return
    token = user.token.get_secret_value()
    answers = connection.scope.setdefault("visible_tenants", {})
    if (token, tenant) not in answers:
        try:
            await client.check(token, tenant=tenant)
            answers[token, tenant] = True
        except PermissionDeniedError:
            answers[token, tenant] = False
        except InvalidTokenError:
            challenge = connection.scope.get(CHALLENGE, "APIKey")
            raise InvalidTokenError(challenge) from None
    if not answers[token, tenant]:
        raise PermissionDeniedError("not permitted for this tenant")


class TenantHeader:
    """The dependency of a service whose clients name the tenant in this header."""

    def __init__(
        self,
        header: str = "Accent-Tenant",
        user: Callable[..., Awaitable[AuthUser]] = get_current_user,
    ) -> None:
        """Make it; an application needs one object of this class."""

        async def tenant(
            connection: HTTPConnection,
            user: Annotated[AuthUser, Depends(user)],
            client: Annotated[AuthClient, Depends(get_auth_client)],
            active: Annotated[ActiveTenants, Depends(get_active_tenants)],
            named: Annotated[str | None, Header(alias=header)] = None,
        ) -> AsyncIterator[UUID]:
            tenant = user.tenant_uuid if named is None else _parse(named)
            if tenant is None or len(connection.headers.getlist(header)) > 1:
                raise HTTPException(400, f"one tenant has to be named in {header}")
            await require_visible(connection, client, user, tenant)
            if not await active.is_active(tenant):
                raise PermissionDeniedError("the tenant is not active")
            with set_tenant(tenant):
                yield tenant

        self.tenant: Callable[..., AsyncIterator[UUID]] = tenant
        """The tenant of the request, which is set until its response is over."""


_IN_ACCENT_TENANT = TenantHeader()
get_tenant = _IN_ACCENT_TENANT.tenant


def _parse(text: str) -> UUID:
    """Return the UUID, which `UUID` would also read from other forms."""
    try:
        tenant = UUID(text)
    except ValueError:
        tenant = None
    if tenant is None or str(tenant) != text.lower():
        raise HTTPException(400, "the tenant is not named by a UUID")
    return tenant
