"""The tenant of a request as it is often found out first: by the token, or a header."""

from contextvars import ContextVar
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header

from snippets.auth.current_user import get_current_user
from snippets.auth.token_auth import AuthUser

current_tenant: ContextVar[UUID | None] = ContextVar("current_tenant", default=None)


def get_tenant(
    user: Annotated[AuthUser, Depends(get_current_user)],
    x_tenant_id: Annotated[UUID | None, Header()] = None,
) -> UUID | None:
    """Return the token's tenant or, if it has none, the one that the client names."""
    tenant = user.tenant_uuid or x_tenant_id
    current_tenant.set(tenant)
    return tenant
