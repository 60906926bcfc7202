"""Fill the path into a template and check it, as written first."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from snippets.auth.current_user import get_current_user
from snippets.auth.token_auth import AuthUser


def require_all_acls(*templates: str) -> Callable[..., Awaitable[AuthUser]]:
    """Return a dependency that requires these permissions."""

    async def check(
        request: Request, user: Annotated[AuthUser, Depends(get_current_user)]
    ) -> AuthUser:
        for template in templates:
            required = template.format(**request.path_params)
            if not user.access.matches_required_access(required):
                raise HTTPException(403, f"{required} is not in {list(user.acl)}")
        return user

    return check
