"""Page by counting rows, as it is written first; the cursor is the count in base64."""

import base64
from collections.abc import Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")


async def page_by_offset(
    session: AsyncSession, query: sa.Select[T], limit: int, cursor: str | None = None
) -> tuple[Sequence[T], str]:
    """Return a page and the cursor of the next one."""
    offset = int(base64.b64decode(cursor)) if cursor else 0
    rows = (await session.scalars(query.limit(limit).offset(offset))).all()
    return rows, base64.b64encode(str(offset + len(rows)).encode()).decode()
