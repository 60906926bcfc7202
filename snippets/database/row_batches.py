"""Send an INSERT for many rows in bounded batches, all of them or none.

No statement has more parameters than the database takes, and one batch is held in
memory however many rows follow. The work is done in a savepoint of the caller's
transaction: an error, be it of the rows' iterator, leaves no row of the call, and what
came before. A cancellation undoes the whole transaction. A row that violates a
constraint is found by halving its batch; the error tells its place and no value. A
deferred constraint raises at the commit.

Source: https://www.postgresql.org/docs/15/sql-savepoint.html and
https://docs.sqlalchemy.org/en/21/core/connections.html#engine-insertmanyvalues
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain, islice
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.database.conflict import ConflictError, violated

Placed: TypeAlias = tuple[int, Mapping[str, Any]]
"""A row's place in the input, and its values."""


class RowConflictError(ConflictError):
    """The `row` at this place of the input, from 0, violated a constraint."""

    def __init__(self, model: type[object], constraint: str | None, row: int) -> None:
        """Say which row violated what, and not with what."""
        super().__init__(model, constraint)
        self.row = row

    def __str__(self) -> str:
        """Begin with the place."""
        return f"row {self.row}: {super().__str__()}"


@asynccontextmanager
async def all_or_nothing(
    session: AsyncSession, model: type[object]
) -> AsyncIterator[None]:
    """Undo what was written inside the block, and no more, unless it ends well."""
    connection = await session.connection({"mapper": sa.inspect(model)})
    driver = (await connection.get_raw_connection()).driver_connection
    if not getattr(driver, "in_transaction", True):
        # SQLite's driver begins none for a savepoint, whose release would then commit.
        await connection.exec_driver_sql("BEGIN")
    async with session.begin_nested():
        yield


async def send_in_batches(
    session: AsyncSession,
    model: type[object],
    insert: sa.Insert,
    rows: Iterable[Placed],
    *,
    size: int = 1000,
) -> Sequence[sa.Row[Any]]:
    """Send the statement with batches of up to `size` rows; return what it RETURNs.

    All rows have the same keys. Raises `RowConflictError`; other errors pass.
    """
    if size < 1:
        raise ValueError("a batch has 1 row or more")
    # Where it returns, SQLAlchemy makes one statement of so many rows, or of fewer if
    # they have more parameters than the database takes.
    insert = insert.execution_options(insertmanyvalues_page_size=size)
    remaining = iter(rows)
    batch = [*islice(remaining, size + 1)]
    if len(batch) <= size:
        return await _send(session, model, insert, batch) if batch else ()
    remaining = chain(batch, remaining)
    returned: list[sa.Row[Any]] = []
    async with all_or_nothing(session, model):
        while batch := [*islice(remaining, size)]:
            returned += await _send(session, model, insert, batch)
    return returned


async def _send(
    session: AsyncSession, model: type[object], insert: sa.Insert, batch: list[Placed]
) -> Sequence[sa.Row[Any]]:
    """Send one batch in a savepoint; if it is refused, find the row that was."""
    try:
        async with all_or_nothing(session, model):
            result = await session.execute(insert, [values for _, values in batch])
            return result.all() if len(insert.exported_columns) else ()
    except IntegrityError as error:
        constraint = violated(model, error)
    if len(batch) == 1:
        # Outside of the handler: the driver's message quotes the row.
        raise RowConflictError(model, constraint, batch[0][0])
    half = len(batch) // 2
    async with all_or_nothing(session, model):
        first = await _send(session, model, insert, batch[:half])
        return [*first, *await _send(session, model, insert, batch[half:])]
