"""Ada logs in at a developer's machine, where the auth service is a fake."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import SecretStr

from snippets.auth.token_auth import (
    AuthUnavailableError,
    AuthUser,
    FakeAuthClient,
    InvalidTokenError,
    PermissionDeniedError,
)

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ACME, GLOBEX = UUID(int=0xA), UUID(int=0xB)


async def main() -> None:
    """Ask about Ada's token in good times and bad."""
    client = FakeAuthClient("development", clock=lambda: NOW)
    client.add(
        AuthUser(
            token=SecretStr("token-of-ada"),
            auth_id="ada",
            session_uuid="session-1",
            issued_at=NOW,
            expires_at=NOW + timedelta(hours=2),
            tenant_uuid=ACME,
            acl=("users.me.#",),
        )
    )

    user = await client.get_user("token-of-ada")
    print(user.auth_id, user.acl, repr(user.token))
    # > ada ('users.me.#',) SecretStr('**********')

    await client.check("token-of-ada", scope="users.ada.read", tenant=ACME)
    print("Ada may read what is hers")
    # > Ada may read what is hers

    for scope, tenant in (("users.grace.read", ACME), (None, GLOBEX)):
        try:
            await client.check("token-of-ada", scope=scope, tenant=tenant)
        except PermissionDeniedError as error:
            print(error.status_code, error.detail)
            # > 403 not permitted
            # > 403 not permitted

    try:
        await client.get_user("token-of-nobody")
    except InvalidTokenError as error:
        print(error.status_code, error.detail, error.headers)
        # > 401 no valid token {'WWW-Authenticate': 'APIKey'}

    client.is_down = True
    try:
        await client.get_user("token-of-ada")
    except AuthUnavailableError as error:
        print(error.status_code, error.detail, error.headers)
        # > 503 tokens cannot be verified {'Retry-After': '5'}

    try:
        FakeAuthClient("production")
    except ValueError as error:
        print(error)
        # > no made-up users in 'production'


if __name__ == "__main__":
    asyncio.run(main())
