"""Many rows, created one after the other by the session, as written first."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")
Rows = Iterable[Mapping[str, Any]]


async def create_many(session: AsyncSession, model: type[T], rows: Rows) -> Sequence[T]:
    """Insert rows and return them as they are stored."""
    created = []
    for row in rows:
        instance = model(**row)
        session.add(instance)
        await session.flush()
        await session.refresh(instance)
        created.append(instance)
    return created


async def create_or_update_many(
    session: AsyncSession, model: type[T], rows: Rows, *, on: Sequence[str]
) -> None:
    """Insert the rows that are not there yet, and update the others."""
    for row in rows:
        key = {name: row[name] for name in on}
        found = await session.scalar(select(model).filter_by(**key))
        if found is None:
            session.add(model(**row))
        else:
            for name, value in row.items():
                setattr(found, name, value)
        await session.flush()
