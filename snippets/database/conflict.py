"""Send one write and turn a violated constraint into an error that names it.

After the error the transaction goes on: it has kept what came before the write, and
nothing of the write. PostgreSQL fails a whole transaction with its first failed
statement, so there a savepoint surrounds the write; SQLite undoes the statement alone.
A constraint that is deferred to the commit raises there, untranslated.

Source: https://www.postgresql.org/docs/15/sql-savepoint.html and, for SQLite,
https://www.sqlite.org/lang_conflict.html under ABORT.
"""

from collections.abc import Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import TypedReturnsRows

R = TypeVar("R")

UNIQUE = sa.PrimaryKeyConstraint | sa.UniqueConstraint


class ConflictError(Exception):
    """A write violated a constraint; no value of a row is in it or in its traceback.

    `constraint` is its name; None for NOT NULL, and on SQLite for a foreign key and for
    a unique constraint that the model leaves unnamed.
    """

    def __init__(self, model: type[object], constraint: str | None) -> None:
        """Say what was violated, and not with what."""
        super().__init__(f"{model.__name__} violates {constraint or 'a constraint'}")
        self.constraint = constraint


async def write_or_conflict(
    session: AsyncSession, model: type[object], statement: TypedReturnsRows[R]
) -> Sequence[R]:
    """Flush the session, send an INSERT, UPDATE or DELETE, return what it is RETURNING.

    Instances which the session holds of these rows show their new state. Raises
    `ConflictError`; what the flush raises is not this write's fault and passes.
    """
    return await session.run_sync(_write, model, statement)


def _write(
    session: Session, model: type[object], statement: TypedReturnsRows[R]
) -> Sequence[R]:
    session.flush()
    connection = session.connection({"mapper": model})
    fragile = connection.dialect.name == "postgresql"
    options = {
        "populate_existing": True,
        "synchronize_session": "fetch" if statement.is_delete else False,
    }
    if fragile:
        # Always the same name: `begin_nested` counts, so each text is prepared anew.
        connection.exec_driver_sql("SAVEPOINT before_write")
    try:
        rows = session.scalars(statement, execution_options=options).all()
    except IntegrityError as error:
        if fragile:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT before_write")
            connection.exec_driver_sql("RELEASE SAVEPOINT before_write")
        # The driver's message quotes the row: as the cause it would reach the log.
        raise ConflictError(model, violated(model, error)) from None
    if fragile:
        connection.exec_driver_sql("RELEASE SAVEPOINT before_write")
    return rows


def violated(model: type[object], error: IntegrityError) -> str | None:
    """Return the name that PostgreSQL's driver tells, or that SQLite's message implies.

    SQLite names a check, and an index on expressions; of any other unique constraint it
    lists the columns.
    """
    kind, _, detail = str(error.orig).partition(" constraint failed: ")
    if kind == "CHECK":
        return detail
    if kind == "UNIQUE" and detail.startswith("index "):
        return detail.removeprefix("index ").strip("'")
    if kind == "UNIQUE":
        return _unique_on(model, set(detail.split(", ")))
    cause = getattr(error.orig, "__cause__", None)
    name: str | None = getattr(cause, "constraint_name", None)
    return name


def _unique_on(model: type[object], columns: set[str]) -> str | None:
    """Return the name of the unique constraint on columns such as `users.email`."""
    table = sa.inspect(model).local_table
    for rule in (*table.constraints, *table.indexes):
        unique = isinstance(rule, UNIQUE) or getattr(rule, "unique", False)
        if unique and {f"{table.name}.{on.name}" for on in rule.columns} == columns:
            name: str | None = rule.name
            return name
    return None
