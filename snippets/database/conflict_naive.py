"""Insert a row and complain about a duplicate, as it is written first."""

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession


async def insert_or_complain(session: AsyncSession, row: object) -> None:
    """Insert the row, or roll back and raise `ValueError`."""
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        await session.rollback()
        raise ValueError(f"this row is already there: {error}") from error
