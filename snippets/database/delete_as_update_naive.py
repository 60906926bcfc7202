"""Marking instead of deleting, by the listener that one writes first."""

from datetime import UTC, datetime

from sqlalchemy import event
from sqlalchemy.orm import Mapped, Session


class NaiveReleasedMixin:
    """When a row was released, if it was."""

    released_at: Mapped[datetime | None]


def release_instead_of_deleting(session_class: type[Session]) -> None:
    """Mark what `session.delete` was given, and keep it."""

    def release(session: Session, *_: object) -> None:
        for row in session.deleted:
            if isinstance(row, NaiveReleasedMixin):
                session.add(row)
                row.released_at = datetime.now(UTC).replace(tzinfo=None)

    event.listen(session_class, "before_flush", release)
