"""Delete the cached value next to the write: before the commit, so before it is so."""

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

READ = text("SELECT name FROM users WHERE id = :id")
WRITE = text("UPDATE users SET name = :name WHERE id = :id")


class CachedNames:
    """The names of users, each kept for an hour."""

    def __init__(
        self, redis: Redis, sessions: async_sessionmaker[AsyncSession]
    ) -> None:
        """Keep the client, and the factory of the sessions that read."""
        self._redis = redis
        self._sessions = sessions

    async def get(self, key: str, user_id: int) -> str:
        """Return the cached name, or else read it and keep it."""
        found = await self._redis.get(key)
        if isinstance(found, bytes):
            return found.decode()
        async with self._sessions() as session:
            name = str(await session.scalar(READ, {"id": user_id}))
        await self._redis.set(key, name, ex=3600)
        return name

    async def change(
        self, key: str, user_id: int, name: str, session: AsyncSession
    ) -> None:
        """Change the name and forget the old one; the caller commits."""
        await session.execute(WRITE, {"id": user_id, "name": name})
        await self._redis.delete(key)
