"""Get a row, set what has changed, flush it, as written first."""

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncSession


async def save(
    session: AsyncSession, model: type[object], key: int, form: Mapping[str, str]
) -> bool:
    """Write what somebody made of the row they were shown."""
    row = await session.get(model, key)
    if row is None:
        return False
    for name, value in form.items():
        setattr(row, name, value)
    await session.flush()
    return True
