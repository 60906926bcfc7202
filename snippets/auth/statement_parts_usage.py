"""Review the statements of a telephony platform for SQL that was written as text."""

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.auth.statement_parts import parts_of, raw_sql, values_of


class Base(DeclarativeBase):
    """The tables of this example."""


class User(Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def texts(statement: sa.ClauseElement) -> list[str]:
    """Return all text in a statement."""
    return [text for part in parts_of(statement) for text in raw_sql(part)]


def main() -> None:
    """Read the texts and the values out of some statements."""
    query = sa.select(User.name).where(User.name != "")
    print(texts(query))
    # > []
    ordered = query.order_by(sa.literal_column("length(name)"))
    print(texts(ordered.prefix_with("SQL_NO_CACHE")))
    # > ['SQL_NO_CACHE', 'length(name)']
    insert = sa.insert(User).values([{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bo"}])
    print([value for name, value in values_of(insert) if name == "name"])
    # > ['Ada', 'Bo']


if __name__ == "__main__":
    main()
