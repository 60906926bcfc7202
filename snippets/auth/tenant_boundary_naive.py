"""Refuse statements without a condition, by looking for the column's name."""

from collections.abc import Collection

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError


def require_condition(engine: Engine, tables: Collection[str], column: str) -> None:
    """Raise for a statement on one of the tables that does not mention the column."""

    def check(_: Connection, __: object, statement: str, *___: object) -> None:
        text = statement.casefold()
        if any(table in text for table in tables) and column not in text:
            raise InvalidRequestError(f"no condition on {column}")

    event.listen(engine, "before_cursor_execute", check)
