"""A condition on every query, by the listener that SQLAlchemy's manual shows."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, event
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria


def filter_queries(
    session_class: type[Session],
    mixin: type,
    condition: Callable[[Any], ColumnElement[bool]],
) -> None:
    """Add the condition to the queries of a session class."""
    criteria = with_loader_criteria(mixin, condition, include_aliases=True)

    def add(state: ORMExecuteState) -> None:
        own = not state.is_column_load and not state.is_relationship_load
        if state.is_select and own:
            state.statement = state.statement.options(criteria)

    event.listen(session_class, "do_orm_execute", add)
