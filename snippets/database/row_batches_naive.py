"""A long import that commits batch by batch, as written first."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession


async def import_rows(
    session: AsyncSession, insert: Insert, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Insert the rows, a thousand at a time."""
    remaining = iter(rows)
    while batch := list(islice(remaining, 1000)):
        try:
            await session.execute(insert.values(batch))
            await session.commit()
        except IntegrityError as error:
            await session.rollback()
            raise ValueError(f"import failed: {error}") from error
