"""Look for the tag in the header before the write, as written first."""

from fastapi import HTTPException
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.database.optimistic_lock_wiring import Extension


async def save(
    session: AsyncSession, key: int, forwards_to: str, if_match: str | None
) -> str:
    """Change an extension unless it is not what the client has seen; return its tag."""
    extension = await session.get(Extension, key)
    if extension is None:
        raise HTTPException(404)
    tag = f'"{extension.version}"'
    if if_match and tag not in if_match:  # it may be a list
        raise HTTPException(412)
    extension.forwards_to = forwards_to
    await session.flush()
    return f'"{extension.version}"'
