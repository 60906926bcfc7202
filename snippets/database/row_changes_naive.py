"""What a flush changes, taken from the attributes' history, as written first."""

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

Tell = Callable[[str, dict[str, object]], None]


def tell_flushes(session_class: type[Session], tell: Tell) -> None:
    """Tell of each row that is updated, and the old and new values of its columns."""

    def before_flush(session: Session, *_: object) -> None:
        for row in session.dirty:
            changed: dict[str, object] = {}
            for attribute in sa.inspect(row).attrs:
                history = attribute.history
                if history.has_changes():
                    changed[attribute.key] = [*history.deleted, *history.added]
            tell(type(row).__name__, changed)

    event.listen(session_class, "before_flush", before_flush)
