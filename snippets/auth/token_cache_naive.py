"""Keep the users of tokens in Redis under a short key, as written first."""

import json
from datetime import datetime

from redis.asyncio import Redis

from snippets.auth.token_auth import AuthClient, AuthUser


class TokenCache:
    """Asks Redis first."""

    def __init__(self, client: AuthClient, redis: Redis, ttl: int = 300) -> None:
        """Keep users for `ttl` seconds."""
        self._client, self._redis, self._ttl = client, redis, ttl

    async def get_user(self, token: str) -> AuthUser:
        """Return whose token it is."""
        key = f"auth:token:{token[:16]}"
        if found := await self._redis.get(key):
            kept = json.loads(found)
            for name in ("issued_at", "expires_at"):
                kept[name] = datetime.fromisoformat(kept[name])
            return AuthUser(**kept)
        user = await self._client.get_user(token)
        kept = user.model_dump(mode="json")
        kept["token"] = token
        await self._redis.set(key, json.dumps(kept), ex=self._ttl)
        return user
