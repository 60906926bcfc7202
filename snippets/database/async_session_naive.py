"""A session made by hand for each request, as it is often written first."""

from collections.abc import AsyncIterator

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session; commit afterwards, or roll back if something went wrong."""
    session: AsyncSession = request.app.state.sessions()
    try:
        yield session
        await session.commit()
    except Exception:
        await session.rollback()
        await session.close()
        raise
    await session.close()
