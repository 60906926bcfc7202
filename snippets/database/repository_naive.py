"""A generic repository as it is written first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")


@dataclass
class NaiveRepository(Generic[T]):
    """The rows of a model."""

    model: type[T]
    session: AsyncSession

    async def list(
        self, *, offset: int = 0, limit: int = 100, include_deleted: bool = False
    ) -> Sequence[T]:
        """Return some rows."""
        stmt = select(self.model)
        if not include_deleted:
            stmt = stmt.filter_by(deleted_at=None).offset(offset).limit(limit)
        return (await self.session.scalars(stmt)).all()

    async def update(self, key: int, **kwargs: object) -> T | None:
        """Change a row."""
        if instance := await self.session.get(self.model, key):
            for name, value in kwargs.items():
                setattr(instance, name, value)
            await self.session.flush()
        return instance

    async def delete(self, key: int) -> None:
        """Delete a row."""
        if instance := await self.session.get(self.model, key):
            await self.session.delete(instance)
