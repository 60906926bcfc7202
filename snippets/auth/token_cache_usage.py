"""Count how often an auth service is asked about Ada's token."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

from fakeredis import FakeAsyncRedis
from pydantic import SecretStr

from snippets.auth.token_auth import AuthUser, FakeAuthClient, InvalidTokenError
from snippets.auth.token_cache import TokenCache

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ACME, GLOBEX = UUID(int=0xA), UUID(int=0xB)


class CountingClient(FakeAuthClient):
    """A fake that counts."""

    asked = 0

    async def get_user(self, token: str) -> AuthUser:
        """Return whose token it is."""
        self.asked += 1
        return await super().get_user(token)


async def main() -> None:
    """Use a token, revoke it, use it again."""
    service = CountingClient("test", clock=lambda: NOW)
    redis = FakeAsyncRedis()
    cache = TokenCache(
        client=service,
        redis=lambda: redis,
        namespace="telephony:1",
        clock=lambda: NOW,
    )
    ada = AuthUser(
        token=SecretStr("token-of-ada"),
        auth_id="ada",
        session_uuid="session-1",
        issued_at=NOW,
        expires_at=NOW + timedelta(hours=2),
        tenant_uuid=ACME,
        acl=("users.#",),
    )
    service.add(ada, GLOBEX)

    users = await asyncio.gather(*(cache.get_user("token-of-ada") for _ in range(50)))
    print(len(users), "users, asked:", service.asked)
    # > 50 users, asked: 1

    await cache.check("token-of-ada", scope="users.read", tenant=GLOBEX)
    print("a check of a tenant, asked:", service.asked)
    # > a check of a tenant, asked: 1

    service.revoke("token-of-ada")
    await cache.revoke("token-of-ada")
    for _ in range(3):
        try:
            await cache.get_user("token-of-ada")
        except InvalidTokenError as error:
            print(error.status_code, "asked:", service.asked)
            # > 401 asked: 2
            # > 401 asked: 2
            # > 401 asked: 2
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
