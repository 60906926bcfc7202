"""Tenant isolation as it is often written first: a column, and a filter in `list`."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy import func, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

tenant: ContextVar[UUID | None] = ContextVar("tenant", default=None)


class NaiveTenantMixin:
    """Whose a row is."""

    tenant_id: Mapped[UUID] = mapped_column(index=True, default=tenant.get)


T = TypeVar("T", bound=NaiveTenantMixin)


@dataclass
class NaiveRepository(Generic[T]):
    """The rows of a model that has the mixin."""

    model: type[T]
    session: AsyncSession

    async def list(self) -> Sequence[T]:
        """Return the tenant's rows."""
        own = self.model.tenant_id == tenant.get() if tenant.get() else true()
        return (await self.session.scalars(select(self.model).where(own))).all()

    async def count(self) -> int:
        """Return how many there are."""
        query = select(func.count()).select_from(self.model)
        return (await self.session.scalars(query)).one()
