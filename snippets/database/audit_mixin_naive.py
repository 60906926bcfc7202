"""Times that fill themselves and an actor that mapper events fill, as written first."""

from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import DateTime, event
from sqlalchemy.orm import Mapped, mapped_column

actor: ContextVar[str | None] = ContextVar("actor", default=None)
now = partial(datetime.now, UTC)


class AuditMixin:
    """Who created a row, who changed it last, and when."""

    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    created_by: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=now, onupdate=now
    )
    updated_by: Mapped[str | None]


@event.listens_for(AuditMixin, "before_insert", propagate=True)
def _created(_: object, __: object, row: AuditMixin) -> None:
    row.created_by = row.updated_by = actor.get()


@event.listens_for(AuditMixin, "before_update", propagate=True)
def _updated(_: object, __: object, row: AuditMixin) -> None:
    row.updated_by = actor.get()
