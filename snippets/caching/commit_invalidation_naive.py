"""Delete the cached value next to the write: before the commit, so before it is so."""

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of this service."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


async def name_of(
    user_id: int, redis: Redis, sessions: async_sessionmaker[AsyncSession], key: str
) -> str:
    """Return the cached name, or else read it and keep it for an hour."""
    found = await redis.get(key)
    if isinstance(found, bytes):
        return found.decode()
    async with sessions() as session:
        name = (await session.get_one(User, user_id)).name
    await redis.set(key, name, ex=3600)
    return name


async def rename(
    user_id: int, name: str, redis: Redis, session: AsyncSession, key: str
) -> None:
    """Change the name and forget the old one; the caller commits."""
    (await session.get_one(User, user_id)).name = name
    await session.flush()
    await redis.delete(key)
