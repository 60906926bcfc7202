"""Read once, then try the write until it works, as written first."""

from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.async_session import session_scope
from snippets.database.optimistic_lock_wiring import Extension


async def save(
    sessions: async_sessionmaker[AsyncSession],
    key: int,
    change: Callable[[str], Awaitable[str]],
) -> None:
    """Change where an extension forwards to by what it forwards to now."""
    async with session_scope(sessions) as session:
        seen = (await session.get_one(Extension, key)).forwards_to
    target = await change(seen)
    while True:
        try:
            async with session_scope(sessions) as session:
                extension = await session.get_one(Extension, key)
                extension.forwards_to = target
        except StaleDataError:
            continue
        return
