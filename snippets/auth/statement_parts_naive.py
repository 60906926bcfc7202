"""Look for SQL text in a statement by walking through it."""

import sqlalchemy as sa
from sqlalchemy.sql import visitors


def raw_sql(statement: sa.ClauseElement) -> list[str]:
    """Return the texts in the statement."""
    return [
        part.text
        for part in visitors.iterate(statement)
        if isinstance(part, sa.TextClause)
    ]
