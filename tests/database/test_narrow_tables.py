"""A condition on a table's rows holds wherever a statement names the table.

What a session sends, classes and writes on both databases included, is in the matrix of
soft deletion; these tests are about tables, and about what stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.exc import InvalidRequestError

from snippets.database.async_session import create_engine_and_sessions
from snippets.database.narrow_tables import Element, narrow_tables
from snippets.database.narrow_tables_naive import narrow_froms
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from catalogue.plugin import Proof

METADATA = sa.MetaData()
USERS = sa.Table(
    "users",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String),
    sa.Column("left", sa.Boolean, default=False),
)
CALLS = sa.Table(
    "calls",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id")),
    sa.Column("caller", sa.String),
)
OTHER = USERS.alias()


def is_here(row: Element) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = row.left.is_(False)
    return condition


def narrowed(statement: Element, given: object = None) -> Element:
    """Return the statement without the users who left."""
    return narrow_tables(statement, {USERS}, is_here, given)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Ada is here, Linus has left; each took a call."""
    engine, _ = create_engine_and_sessions(database_url)
    await create_tables(engine, METADATA)
    async with engine.connect() as connection:
        users = [(1, "Ada", False), (2, "Linus", True)]
        await connection.execute(sa.insert(USERS).values(users))
        calls = [(1, 1, None), (2, 2, None)]
        await connection.execute(sa.insert(CALLS).values(calls))
        yield connection
    await engine.dispose()


QUERIES: dict[str, sa.Select[Any] | sa.CompoundSelect[Any]] = {
    "table": select(USERS.c.name),
    "alias": select(OTHER.c.name),
    "FROM an alias": select(OTHER.c.name).select_from(OTHER),
    "join of an alias": select(OTHER.c.name).join(CALLS, CALLS.c.user_id == OTHER.c.id),
    "join to an alias": select(OTHER.c.name).join_from(CALLS, OTHER),
    "alias beside its table": select(OTHER.c.name).join_from(
        USERS, OTHER, OTHER.c.id == USERS.c.id
    ),
    "two aliases of one name": select(USERS.alias("u").c.name).where(
        select(USERS.alias("u").c.id).exists()
    ),
    "subquery": select(select(USERS).subquery().c.name),
    "CTE": select(select(USERS).cte().c.name),
    "join": select(USERS.c.name).select_from(sa.join(CALLS, USERS)),
    "Select.join": select(USERS.c.name).join(CALLS),
    "alias of a subquery": select(
        select(USERS.c.name).where(USERS.c.id > 0).subquery().alias().c.name
    ),
    "correlated": select(USERS.c.name).where(
        sa.exists().where(CALLS.c.user_id == USERS.c.id)
    ),
    "value of a value": select(
        select(select(func.min(OTHER.c.name)).scalar_subquery()).scalar_subquery()
    ),
    "union": sa.union(select(USERS.c.name), select(OTHER.c.name)),
    "for another": select(USERS.c.name).where(
        USERS.c.id.in_(select(OTHER.c.id).where(OTHER.c.id == USERS.c.id))
    ),
}


async def test_a_query_finds_no_hidden_row_by_whatever_way(
    connection: AsyncConnection,
) -> None:
    found = {
        way: [*await connection.scalars(narrowed(query))]
        for way, query in QUERIES.items()
    }
    assert found == {way: ["Ada"] for way in QUERIES}


OUTER = select(CALLS.c.id, USERS.c.name).outerjoin(USERS).order_by(CALLS.c.id)


async def test_a_full_join_of_tables_has_no_hidden_row_on_either_side(
    connection: AsyncConnection,
) -> None:
    query = select(OTHER.c.name, USERS.c.name).join_from(
        USERS, OTHER, OTHER.c.id == USERS.c.id + 1, full=True
    )
    rows = await connection.execute(narrowed(query))
    assert {tuple(row) for row in rows} == {("Ada", None), (None, "Ada")}


async def test_an_outer_join_keeps_the_row_whose_partner_is_hidden(
    connection: AsyncConnection,
) -> None:
    rows = await connection.execute(narrowed(OUTER))
    assert [tuple(row) for row in rows] == [(1, "Ada"), (2, None)]


TAKER = select(USERS.c.name).where(USERS.c.id == CALLS.c.user_id).scalar_subquery()
WRITES: dict[str, Callable[[], sa.Update]] = {
    "a query": lambda: sa.update(CALLS).values(caller=TAKER),
    "in order": lambda: sa.update(CALLS).ordered_values((CALLS.c.caller, TAKER)),
    "FROM": lambda: (
        sa.update(CALLS)
        .where(CALLS.c.user_id == USERS.c.id)
        .values(caller=USERS.c.name)
    ),
    "FROM an alias": lambda: (
        sa.update(CALLS)
        .where(CALLS.c.user_id == OTHER.c.id)
        .values(caller=OTHER.c.name)
    ),
}


@pytest.mark.parametrize("way", WRITES)
async def test_an_update_reads_no_hidden_row(
    connection: AsyncConnection, way: str
) -> None:
    await connection.execute(narrowed(WRITES[way]()))
    callers = select(CALLS.c.caller).order_by(CALLS.c.id)
    assert [*await connection.scalars(callers)] == ["Ada", None]


HIDDEN = select(USERS.c.id.label("id")).where(USERS.c.id == 2)
BESIDE: dict[str, Callable[[], sa.Update | sa.Delete]] = {
    "a subquery": lambda: (
        sa.update(CALLS)
        .where(CALLS.c.user_id == HIDDEN.subquery().c.id)
        .values(caller="seen")
    ),
    "a CTE": lambda: (
        sa.update(CALLS)
        .where(CALLS.c.user_id == HIDDEN.cte().c.id)
        .values(caller="seen")
    ),
    "an alias of a subquery": lambda: (
        sa.update(CALLS)
        .where(CALLS.c.user_id == HIDDEN.subquery().alias().c.id)
        .values(caller="seen")
    ),
    "a sample": lambda: (
        sa.update(CALLS)
        .where(CALLS.c.user_id == USERS.tablesample(100).c.id)
        .values(caller="seen")
    ),
    "a subquery that is deleted by": lambda: sa.delete(CALLS).where(
        CALLS.c.user_id == HIDDEN.subquery().c.id
    ),
}


@pytest.mark.parametrize("way", BESIDE)
def test_a_query_that_a_write_reads_from_is_refused(way: str) -> None:
    with pytest.raises(InvalidRequestError, match="use IN or EXISTS"):
        narrowed(BESIDE[way]())


async def test_a_write_in_which_a_query_is_asked_reads_no_hidden_row(
    connection: AsyncConnection,
) -> None:
    ids = HIDDEN.subquery().c.id
    for found in (CALLS.c.user_id.in_(HIDDEN), CALLS.c.user_id.in_(select(ids))):
        update = sa.update(CALLS).where(found).values(caller="seen")
        await connection.execute(narrowed(update))
    callers = select(CALLS.c.caller).order_by(CALLS.c.id)
    assert [*await connection.scalars(callers)] == [None, None]


async def test_an_insert_reads_no_hidden_row(connection: AsyncConnection) -> None:
    for n in (1, 2):
        name = select(USERS.c.name).where(USERS.c.id == n).scalar_subquery()
        await connection.execute(
            narrowed(sa.insert(CALLS).values(id=n + 10, caller=name))
        )
    query = select(CALLS.c.caller).where(CALLS.c.id > 10).order_by(CALLS.c.id)
    assert [*await connection.scalars(query)] == ["Ada", None]


async def test_a_write_by_a_hidden_row_changes_nothing(
    connection: AsyncConnection,
) -> None:
    other = USERS.alias().c
    update = sa.update(USERS).where(other.id == USERS.c.id + 1).values(name="-")
    await connection.execute(narrowed(update))
    await connection.execute(narrowed(sa.delete(USERS).where(USERS.c.id == 2)))
    assert [*await connection.scalars(select(USERS.c.name))] == ["Ada", "Linus"]


def test_a_statement_that_names_no_such_table_in_a_query_stays_the_same() -> None:
    for statement in (
        sa.insert(USERS),
        sa.insert(USERS).values([{"id": 1}, {"id": 2}]),
        sa.update(CALLS).values(caller="x"),
        sa.delete(CALLS),
        sa.text("SELECT 1"),
    ):
        assert narrowed(statement, [{"name": "x"}]) is statement


def test_the_statement_that_is_given_is_left_as_it_was() -> None:
    update = WRITES["a query"]()
    before = str(update), str(OUTER)
    narrowed(update)
    narrowed(OUTER)
    assert (str(update), str(OUTER)) == before


def test_a_narrowed_update_takes_further_values() -> None:
    update = narrowed(WRITES["a query"]()).values(id=7)
    assert "caller=" in str(update)
    assert "id=" in str(update)


def test_a_narrowed_statement_is_compiled_once() -> None:
    engine = sa.create_engine("sqlite://")
    METADATA.create_all(engine)
    hits = []
    with engine.connect() as connection:
        for _ in range(2):
            result = connection.execute(narrowed(WRITES["FROM an alias"]()))
            hits.append(result.context.cache_hit.name)
    engine.dispose()
    assert hits == ["CACHE_MISS", "CACHE_HIT"]


ROWS = [{"name": 1}, {"name": TAKER}]


@pytest.mark.parametrize("given", [ROWS[1], ROWS, tuple(ROWS)])
def test_a_query_among_parameters_is_refused(given: object) -> None:
    with pytest.raises(InvalidRequestError, match="by itself"):
        narrowed(sa.insert(CALLS), given)


def test_a_query_among_rows_of_values_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="by itself"):
        narrowed(sa.insert(CALLS).values([(1, 1, TAKER)]))
    calls = select(func.max(CALLS.c.id)).scalar_subquery()
    rows = sa.insert(CALLS).values([(calls, 1, None)])
    assert narrowed(rows) is rows


async def test_narrowing_costs_no_statement(
    connection: AsyncConnection, proof: Proof
) -> None:
    statements: dict[str, Element] = {"query": OUTER, "update": WRITES["FROM"]()}
    for operation, statement in statements.items():
        with count_sql(connection.engine) as counted:
            await connection.execute(narrowed(statement))
        assert counted.total == 1
        proof.cost(operation, statements=1)


# The naive version


def naively(query: sa.Select[Any]) -> sa.Select[Any]:
    """Return the query with a condition for each table in its FROM."""
    return narrow_froms(query, {USERS}, is_here)


async def test_the_naive_condition_does_not_reach_into_a_query(
    connection: AsyncConnection, proof: Proof
) -> None:
    query = select(CALLS.c.id, TAKER).order_by(CALLS.c.id)
    rows = await connection.execute(naively(query))
    assert (2, "Linus") in [tuple(row) for row in rows]
    assert await connection.scalar(naively(select(func.max(OTHER.c.name)))) == "Linus"
    proof.breaks("A query in the place of a value, and an alias", "show hidden rows")


async def test_the_naive_condition_loses_rows_of_an_outer_join(
    connection: AsyncConnection, proof: Proof
) -> None:
    rows = await connection.execute(naively(OUTER))
    assert [tuple(row) for row in rows] == [(1, "Ada")]
    proof.breaks("An outer join to a hidden row", "loses the row beside it")
