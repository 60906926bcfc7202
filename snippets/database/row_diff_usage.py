"""Ada moves to another desk and gets a new PIN; see what a log may hold of it."""

import sqlalchemy as sa

from snippets.database.row_diff import REDACTED, UnrecordedError, diff

users = sa.Table(
    "users",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("desk", sa.String),
    sa.Column("pin", sa.String, info=REDACTED),
)


def main() -> None:
    """Compare two states of her row."""
    before = {users.c.id: 1, users.c.desk: "1.01", users.c.pin: "1234"}
    after = {users.c.id: 1, users.c.desk: "2.17", users.c.pin: "9876"}

    change = diff(users, before, after)
    if change:
        print(change.action, change.table_name, change.row_key)
        # > update users [1]
        print(change.changed)
        # > {'desk': ('1.01', '2.17'), 'pin': ('***', '***')}

    print(diff(users, before, before))
    # > None
    try:
        diff(users, before, {**before, users.c.desk: object()})
    except UnrecordedError as error:
        print(error)
        # > users.desk: JSON cannot hold this object


if __name__ == "__main__":
    main()
