"""Continue after the last row seen, as it is written first: by one column alone."""

from collections.abc import Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")


async def rows_after(
    session: AsyncSession, model: type[T], sort: str, last: object, limit: int
) -> Sequence[T]:
    """Return the rows whose sort value is greater than the last one seen, if any."""
    column: sa.ColumnElement[object] = getattr(model, sort)
    query = sa.select(model).order_by(column).limit(limit)
    if last is not None:
        query = query.where(column > last)
    return (await session.scalars(query)).all()
