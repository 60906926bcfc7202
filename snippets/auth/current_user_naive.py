"""Take the token from its header and let the client decide, as written first."""

from typing import Annotated

from fastapi import Depends, Header, HTTPException

from snippets.auth.current_user import get_auth_client
from snippets.auth.token_auth import AuthClient, AuthUser


async def get_current_user(
    x_auth_token: Annotated[str, Header()],
    client: Annotated[AuthClient, Depends(get_auth_client)],
) -> AuthUser:
    """Return the caller."""
    try:
        return await client.get_user(x_auth_token)
    except Exception as error:
        detail = f"token {x_auth_token} is not valid"
        raise HTTPException(401, detail) from error
