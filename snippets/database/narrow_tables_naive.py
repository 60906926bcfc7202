"""A condition on all tables that a query selects from, by the first means at hand."""

from collections.abc import Callable, Collection
from typing import Any

import sqlalchemy as sa


def narrow_froms(
    query: sa.Select[Any],
    tables: Collection[object],
    condition: Callable[[Any], sa.ColumnElement[bool]],
) -> sa.Select[Any]:
    """Return the query with the condition for each of the tables in its FROM."""
    parts = [part for each in query.get_final_froms() for part in sides(each)]
    return query.where(*(condition(part.c) for part in parts if part in tables))


def sides(table: sa.FromClause) -> list[sa.FromClause]:
    """Return a table or, of a join, all that it joins."""
    if isinstance(table, sa.Join):
        return [*sides(table.left), *sides(table.right)]
    return [table]
