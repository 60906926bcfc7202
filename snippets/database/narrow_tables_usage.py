"""Leave out the users who left, from a report, a copy and a change."""

import sqlalchemy as sa

from snippets.database.narrow_tables import Element, narrow_tables

metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String),
    sa.Column("left", sa.Boolean),
)
calls = sa.Table(
    "calls",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id")),
    sa.Column("caller", sa.String),
)


def is_here(row: Element) -> sa.ColumnElement[bool]:
    """Hold for the users who have not left."""
    condition: sa.ColumnElement[bool] = row.left.is_(False)
    return condition


def narrowed(statement: Element) -> Element:
    """Return the statement without the users who left."""
    return narrow_tables(statement, {users}, is_here)


def main() -> None:
    """Ask who took which call."""
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [
            {"id": 1, "name": "Ada", "left": False},
            {"id": 2, "name": "Linus", "left": True},
        ]
        connection.execute(sa.insert(users), rows)
        connection.execute(
            sa.insert(calls), [{"id": 1, "user_id": 1}, {"id": 2, "user_id": 2}]
        )

        report = sa.select(calls.c.id, users.c.name).outerjoin(users)
        for row in connection.execute(narrowed(report)):
            print(row)
            # > (1, 'Ada')
            # > (2, None)

        name = sa.select(users.c.name).where(users.c.id == calls.c.user_id)
        update = sa.update(calls).values(caller=name.scalar_subquery())
        connection.execute(narrowed(update))
        print(connection.scalars(sa.select(calls.c.caller)).all())
        # > ['Ada', None]

        print(narrowed(sa.delete(users)).whereclause)
        # > users."left" IS false
    engine.dispose()


if __name__ == "__main__":
    main()
