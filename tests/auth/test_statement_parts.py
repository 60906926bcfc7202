"""All text, values and criteria of a statement are found, wherever they are written."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    Session,
    aliased,
    contains_eager,
    joinedload,
    lazyload,
    raiseload,
    selectinload,
    undefer,
    with_expression,
    with_loader_criteria,
)

from catalogue.plugin import Proof
from snippets.auth.statement_parts import (
    criteria_of,
    fully_joined,
    mapped_columns,
    parts_of,
    raw_sql,
    rows_of,
    table_of,
    values_of,
)
from snippets.auth.statement_parts_naive import raw_sql as naive_raw_sql
from snippets.auth.tenancy import TenantMixin
from snippets.auth.tenant_boundary import Boundary, BoundaryError
from tests.support.tenants import A, Base, Call, Extension, User

USERS = Base.metadata.tables["users"]
EXTENSIONS = Base.metadata.tables["extensions"]
ALIAS = aliased(User)
UPSERT = postgresql.insert(User).values(id=1)

HIDDEN = "1 = 1 OR 2 = 1"
AS_COLUMN: sa.ColumnClause[bool] = sa.literal_column(HIDDEN, sa.Boolean)

TEXTS: dict[str, sa.ClauseElement] = {
    "text": text(HIDDEN),
    "WHERE": select(User.id).where(text(HIDDEN)),
    "ON": select(User.id).join(Extension, text(HIDDEN)),
    "a relationship": select(User.id).join(User.extensions.and_(text(HIDDEN))),
    "a literal column": select(AS_COLUMN),
    "a literal column within": select(User.id).where(sa.or_(AS_COLUMN, User.id > 0)),
    "ORDER BY": select(User.id).order_by(text(HIDDEN)),
    "a prefix": select(User.id).prefix_with(HIDDEN),
    "a suffix": select(User.id).suffix_with(HIDDEN),
    "a prefix of a CTE": select(select(User.id).cte().prefix_with(HIDDEN)),
    "a hint": select(User.id).with_hint(User, HIDDEN),
    "a hint of the statement": select(User.id).with_statement_hint(HIDDEN),
    "a hint of an update": sa.update(User).values(desk="x").with_hint(HIDDEN),
    "a prefix of an insert": sa.insert(User).values(id=1).prefix_with(HIDDEN),
    "a subquery": select(select(User.id).where(AS_COLUMN).subquery()),
    "an update": sa.update(User).values(desk=AS_COLUMN),
    "an upsert": UPSERT.on_conflict_do_update(
        index_elements=["id"], set_={"desk": AS_COLUMN}
    ),
    "an upsert's condition": UPSERT.on_conflict_do_update(
        index_elements=["id"], set_={"desk": "x"}, where=text(HIDDEN)
    ),
    "RETURNING": sa.delete(User).returning(AS_COLUMN),
}


@pytest.mark.parametrize("way", TEXTS)
def test_text_is_found_wherever_it_is_written(way: str) -> None:
    found = {one for part in parts_of(TEXTS[way]) for one in raw_sql(part)}
    assert found == {HIDDEN}


@pytest.mark.parametrize("way", sorted(TEXTS.keys() - {"text", "a literal column"}))
async def test_text_with_an_or_is_refused_at_the_boundary_wherever_it_is(
    engine: AsyncEngine, way: str
) -> None:
    boundary = Boundary(TenantMixin, "tenant_id", lambda: A)

    class Bounded(Session):
        """A session of this test."""

    sa.event.listen(Bounded, "do_orm_execute", boundary.admit)
    statement: Any = TEXTS[way]
    async with AsyncSession(engine, sync_session_class=Bounded) as session:
        with pytest.raises(BoundaryError):
            await session.execute(statement)


def test_what_is_quoted_or_a_parameter_is_no_text() -> None:
    query: Any = select(sa.column(HIDDEN), sa.literal(HIDDEN)).where(
        User.name == HIDDEN
    )
    statement = query.select_from(User).with_for_update(of=User)
    assert not [one for part in parts_of(statement) for one in raw_sql(part)]


VALUES: dict[str, sa.UpdateBase] = {
    "insert": sa.insert(User).values(desk="x"),
    "insert into the table": sa.insert(USERS).values({USERS.c.desk: "x"}),
    "rows": sa.insert(User).values([{"desk": "x"}]),
    "rows by position": sa.insert(sa.table("t", sa.column("desk"))).values([("x",)]),
    "update": sa.update(User).values({User.desk: "x"}),
    "ordered update": sa.update(User).ordered_values((User.desk, "x")),
    "upsert": sqlite.insert(User).on_conflict_do_update(
        index_elements=["id"], set_={"desk": "x"}
    ),
    "upsert that does nothing": sqlite.insert(User)
    .values(desk="x")
    .on_conflict_do_nothing(),
    "literal": sa.update(User).values(desk=sa.literal("x")),
}


@pytest.mark.parametrize("way", VALUES)
def test_values_are_found_wherever_they_are_written(way: str) -> None:
    assert [*values_of(VALUES[way])] == [("desk", "x")]


def test_a_value_that_is_not_known_yet_is_no_plain_value() -> None:
    named: sa.BindParameter[str] = sa.bindparam("it", "x")
    ((_, value),) = values_of(sa.update(User).values(desk=named))
    assert isinstance(value, sa.BindParameter)
    ((_, value),) = values_of(sa.insert(User).values([{"desk": User.name + "!"}]))
    assert isinstance(value, sa.ColumnElement)
    copied = sa.insert(User).from_select(["name", "desk"], select(User.name, User.desk))
    assert [*values_of(copied)] == [("name", ...), ("desk", ...)]
    assert not [*values_of(sa.delete(User))]


CRITERIA: dict[str, tuple[sa.ClauseElement, tuple[object, ...] | None]] = {
    "a join": (select(User).join(User.extensions.and_(AS_COLUMN)), None),
    "joined": (
        select(User).options(joinedload(User.extensions.and_(AS_COLUMN))),
        (EXTENSIONS,),
    ),
    "selectin": (
        select(User).options(selectinload(User.extensions.and_(AS_COLUMN))),
        (EXTENSIONS,),
    ),
    "below another": (
        select(Extension).options(
            joinedload(Extension.user).selectinload(User.extensions.and_(AS_COLUMN))
        ),
        (EXTENSIONS,),
    ),
    "below a class without": (
        select(Call).options(joinedload(Call.user.and_(AS_COLUMN))),
        (USERS,),
    ),
    "an expression": (
        select(User).options(with_expression(User.note, AS_COLUMN)),
        (USERS,),
    ),
    "an expression of an alias": (
        select(ALIAS := aliased(User)).options(with_expression(ALIAS.note, AS_COLUMN)),
        (USERS,),
    ),
    "a class": (
        select(User).options(with_loader_criteria(User, AS_COLUMN)),
        None,
    ),
    "VALUES": (
        select(sa.values(sa.column("x"), name="v").data([(AS_COLUMN,), (1,)])),
        (),
    ),
}


@pytest.mark.parametrize("way", CRITERIA)
def test_criteria_are_found_with_the_tables_they_may_read(way: str) -> None:
    statement, tables = CRITERIA[way]
    found = {
        (text, named)
        for part in parts_of(statement)
        for one, named in criteria_of(part)
        for below in parts_of(one)
        for text in raw_sql(below)
    }
    assert found == {(HIDDEN, tables)}


def test_options_without_criteria_have_none() -> None:
    plain = select(User).options(
        lazyload(User.extensions),
        raiseload("*"),
        undefer(User.desk),
        with_loader_criteria(User, lambda cls: cls.id > 0),
    )
    joined = select(User).join(User.extensions).options(contains_eager(User.extensions))
    for statement in (plain, joined):
        assert not [one for part in parts_of(statement) for one in criteria_of(part)]


def test_what_all_mappers_of_a_registry_select_comes_with_their_tables() -> None:
    found = {column: [*own] for column, own in mapped_columns(Extension)}
    assert {*found} > {*USERS.c, *EXTENSIONS.c}
    assert all(found[column] == [USERS] for column in USERS.c)


def test_what_a_full_join_joins_is_found_and_no_other_join() -> None:
    for target in (User, ALIAS):
        query = select(Call).outerjoin(target, sa.true(), full=True)
        assert USERS in {*map(table_of, fully_joined(query))}
    along = select(Call.id).join(Call.user, full=True)
    assert USERS in {*map(table_of, fully_joined(along))}
    for other in (select(Call).outerjoin(User, sa.true()), select(User), USERS):
        assert fully_joined(other) == []


def test_the_table_of_an_alias_of_an_alias_is_the_table() -> None:
    alias: Any = USERS.alias().alias()
    assert table_of(alias) is table_of(alias.c.id) is USERS
    assert table_of(sa.delete(EXTENSIONS)) is EXTENSIONS


def test_the_table_of_a_sample_and_of_a_whole_row_is_the_table() -> None:
    sample: Any = USERS.alias().tablesample(sa.func.system(10))
    assert (
        table_of(sample) is table_of(sample.c.id) is table_of(sample.alias()) is USERS
    )
    for table in (USERS, sample):
        row = table.table_valued()
        assert rows_of(row) is table
        assert table_of(row) is USERS


def test_the_naive_walk_misses_most_text(proof: Proof) -> None:
    found = [way for way, statement in TEXTS.items() if naive_raw_sql(statement)]
    assert sorted(found) == [
        "ON",
        "ORDER BY",
        "WHERE",
        "a relationship",
        "an upsert's condition",
        "text",
    ]
    for way in ("a literal column", "a suffix", "a hint of the statement"):
        proof.breaks(f"a statement had SQL in {way}", "no text was found in it")
