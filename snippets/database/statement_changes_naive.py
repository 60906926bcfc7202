"""What a bulk UPDATE changed, by the event that SQLAlchemy has for it."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session

Tell = Callable[[object], None]


def tell_updates(session_class: type[Session], tell: Tell) -> None:
    """Tell of each row as it is when the UPDATE of its model has been sent."""

    def execute(state: ORMExecuteState) -> sa.Result[Any] | None:
        model = state.bind_mapper
        if not isinstance(state.statement, sa.Update) or model is None:
            return None
        where = state.statement.whereclause
        result = state.invoke_statement()
        query = sa.select(model)
        for row in state.session.scalars(
            query if where is None else query.where(where)
        ):
            tell(row)
        return result

    event.listen(session_class, "do_orm_execute", execute)
