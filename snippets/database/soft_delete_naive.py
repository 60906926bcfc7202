"""Soft deletion as it is often written first: a mixin, and a filter in `list`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from sqlalchemy import DateTime, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column


class NaiveSoftDeleteMixin:
    """When and by whom a row was deleted."""

    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    deleted_by: Mapped[str | None]


T = TypeVar("T", bound=NaiveSoftDeleteMixin)


@dataclass
class NaiveRepository(Generic[T]):
    """The rows of a model which has the mixin."""

    model: type[T]
    session: AsyncSession

    async def list(self) -> Sequence[T]:
        """Return the rows that are not deleted."""
        live = select(self.model).where(self.model.deleted_at.is_(None))
        return (await self.session.scalars(live)).all()

    async def soft_delete(self, key: int, deleted_by: str) -> None:
        """Mark a row as deleted."""
        row = await self.session.get_one(self.model, key)
        row.deleted_at, row.deleted_by = datetime.now(UTC), deleted_by
        await self.session.flush()
