"""Ask a small auth service, in process, and let it fail."""

import asyncio

import httpx
from fastapi import FastAPI, HTTPException, Response

from snippets.auth.auth_service import AuthServiceClient
from snippets.auth.token_auth import (
    AuthUnavailableError,
    InvalidTokenError,
    PermissionDeniedError,
)

service = FastAPI()
owners = {"3f9a-of-ada": "ada"}
status_of_scope = {"users.read": 204, "users.delete": 403, "users.edit": 500}


@service.get("/api/auth/0.1/token/{token}")
async def tell(token: str) -> dict[str, object]:
    """Say whose token it is."""
    if token not in owners:
        raise HTTPException(404)
    return {
        "data": {
            "token": token,
            "auth_id": owners[token],
            "session_uuid": "session-1",
            "utc_issued_at": "2026-11-27T12:00:00",
            "utc_expires_at": "2026-11-27T14:00:00",
            "acl": ["users.read"],
            "metadata": {"tenant_uuid": "2c3b4d5e-0000-4000-8000-00000000000a"},
        }
    }


@service.head("/api/auth/0.1/token/{token}")
async def judge(token: str, scope: str) -> Response:
    """Say whether the token allows something."""
    return Response(status_code=status_of_scope[scope] if token in owners else 404)


async def main() -> None:
    """Ask about tokens."""
    async with AuthServiceClient("http://auth", httpx.ASGITransport(service)) as client:
        user = await client.get_user("3f9a-of-ada")
        print(user.auth_id, user.expires_at, user.tenant_uuid)
        # > ada 2026-11-27 14:00:00+00:00 2c3b4d5e-0000-4000-8000-00000000000a

        try:
            await client.get_user("3f9a-of-nobody")
        except InvalidTokenError as error:
            print(error.status_code, error.detail)
            # > 401 no valid token

        for scope in status_of_scope:
            try:
                await client.check("3f9a-of-ada", scope=scope)
                print(scope, "is allowed")
                # > users.read is allowed
            except (PermissionDeniedError, AuthUnavailableError) as error:
                print(scope, error.status_code, error.detail)
                # > users.delete 403 not permitted
                # > users.edit 503 tokens cannot be verified


if __name__ == "__main__":
    asyncio.run(main())
