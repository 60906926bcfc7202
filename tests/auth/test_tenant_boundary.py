"""What a row filter cannot narrow is refused, each way of writing it, and no other."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    join,
    joinedload,
    mapped_column,
    selectinload,
    with_expression,
    with_loader_criteria,
)

from catalogue.plugin import Proof
from snippets.auth.tenancy import bypass_tenancy, set_tenant
from snippets.auth.tenant_boundary import Boundary, BoundaryError
from snippets.auth.tenant_boundary_naive import require_condition
from tests.support.counters import count_sql
from tests.support.tenants import A, B, Base, Call, Extension, Tenants, User, tenants

USERS = Base.metadata.tables["users"]
EXTENSIONS = Base.metadata.tables["extensions"]
ALIAS = aliased(User)
TABLE_ALIAS: Any = USERS.alias()
NAMED_ALIAS: Any = USERS.alias("staff")
SAMPLE: Any = USERS.tablesample(func.system(100))
SAMPLE_OF_CLASS: Any = sa.tablesample(User, func.system(100))
WHOLE_ROW: Any = USERS.alias().table_valued()
GREATEST = select(func.max(ALIAS.name)).scalar_subquery()
GREATEST_OF_TABLE = select(func.max(TABLE_ALIAS.c.name)).scalar_subquery()
GREATEST_AS_TEXT: sa.ColumnClause[str] = sa.literal_column(
    "(SELECT max(name) FROM users)", sa.String
)
ROWS = sa.values(sa.column("x", sa.String), name="v")
NEW = {"id": 9, "name": "x"}


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Tenants]:
    """Two tenants with a row of each kind."""
    async with tenants(database_url) as platform:
        yield platform


TEXTS: dict[str, sa.Executable] = {
    "text": sa.text("SELECT id FROM users"),
    "text in capitals": sa.text('SELECT id FROM "USERS"'),
    "instances from text": select(User).from_statement(sa.text("SELECT * FROM users")),
    "subquery of text": select(
        sa.text("SELECT id FROM users").columns(sa.column("id")).subquery()
    ),
    "text as a table": select(sa.column("id")).select_from(sa.text("users")),
    "text as a condition": select(Call.id).where(
        sa.text("id IN (SELECT id FROM users)")
    ),
    "a literal column": select(GREATEST_AS_TEXT),
    "a literal column beside a class": select(User.name, GREATEST_AS_TEXT),
    "a literal column as a condition": select(Call.id).where(
        sa.literal_column("id IN (SELECT id FROM users)")
    ),
    "a literal column in an order": select(Call.id).order_by(GREATEST_AS_TEXT),
    "a prefix": select(Call.id).prefix_with("(SELECT max(name) FROM users),"),
    "a suffix": select(Call.id).suffix_with("UNION SELECT id FROM users"),
    "a suffix of a CTE": select(
        select(Call.id).cte().suffix_with("UNION SELECT id FROM users").c.id
    ),
    "a hint": select(Call.id).with_hint(Call, "JOIN users"),
    "a hint of the statement": select(Call.id).with_statement_hint(
        "UNION SELECT id FROM users"
    ),
    "a hint of a write": sa.update(Call).values(user_id=1).with_hint("FROM users"),
}

# The condition of the filter is put behind these, and AND binds closer than OR.
EITHER: dict[str, sa.Executable] = {
    "WHERE": select(User.name).where(sa.text("id > 0 OR desk = ''")),
    "WHERE, lower case": select(User.name).where(sa.text("id > 0 or desk = ''")),
    "WHERE of a table": select(USERS.c.name).where(sa.text("id > 0 OR desk = ''")),
    "WHERE, literal": select(User.name).where(
        sa.literal_column("id > 0 OR desk = ''", sa.Boolean)
    ),
    "ON": select(User.name, Extension.id).join(Extension, sa.text("1=1 OR 1=0")),
    "update": sa.update(User).values(desk="x").where(sa.text("id > 0 OR desk = ''")),
    "update of a table": sa.update(USERS)
    .values(desk="x")
    .where(sa.text("id > 0 OR desk = ''")),
    "delete": sa.delete(Extension).where(sa.text("id > 0 OR number = ''")),
    "relationship": select(User.name, Extension.id).join(
        User.extensions.and_(sa.text("1=0 OR 1=1"))
    ),
    "relationship of a class without tenant": select(Call).options(
        joinedload(Call.user.and_(sa.text("1=1 OR 1=0")))
    ),
    "eager load": select(User).options(
        selectinload(User.forwarded.and_(sa.text("1=1 OR 1=0")))
    ),
    "criteria for a class": select(User.name).options(
        with_loader_criteria(User, sa.literal_column("1=1 OR 1=0", sa.Boolean))
    ),
}

ALONE: dict[str, Any] = {
    "a function of a class": func.max(User.name),
    "a function of a table": func.count(USERS.c.id),
    "a function of a query": func.coalesce(
        select(func.max(User.name)).scalar_subquery()
    ),
    "a table to drop": sa.schema.DropTable(EXTENSIONS),
}

NOWHERE: dict[str, sa.Executable] = {
    "among the rows of VALUES": select(ROWS.data([(GREATEST,)])),
    "of a table, among the rows of VALUES": select(ROWS.data([(GREATEST_OF_TABLE,)])),
    "text among the rows of VALUES": select(ROWS.data([(GREATEST_AS_TEXT,)])),
    "a relationship's criterion by a query": select(User.name).join(
        User.extensions.and_(GREATEST_OF_TABLE == "b")
    ),
    "an eager load's criterion by a query": select(User).options(
        joinedload(User.forwarded.and_(GREATEST_OF_TABLE == "b"))
    ),
    "with_expression": select(Call).options(with_expression(Call.note, GREATEST)),
    "with_expression of a table": select(Call).options(
        with_expression(Call.note, GREATEST_OF_TABLE)
    ),
    "with_expression of another class": select(Call).options(
        with_expression(Call.note, User.name)
    ),
}

COPIES: dict[str, sa.Executable] = {
    "a table made up": select(sa.table("users", sa.column("id")).c.id),
    "a table of other metadata": select(
        sa.Table("users", sa.MetaData(), sa.Column("id", sa.Integer)).c.id
    ),
    "a copy, written to": sa.delete(sa.table("users")),
}

BESIDE: dict[str, sa.Executable] = {
    "a table beside its class": select(USERS.c.id).where(
        USERS.c.id.in_(select(User.id + 1))
    ),
    "a table beside another class": select(Call.id, USERS.c.name).join(
        USERS, USERS.c.id != Call.user_id
    ),
    "an alias beside a class": select(User.id, TABLE_ALIAS.c.name).join(
        TABLE_ALIAS, sa.true()
    ),
    "a whole table beside another class": select(Call, USERS).where(Call.id > 0),
    "a table that is only counted": select(func.count())
    .select_from(USERS)
    .where(select(User.id).exists()),
    "a table that is only joined": select(User.id, func.count())
    .join(TABLE_ALIAS, sa.true())
    .group_by(User.id),
    "a sample of a class": select(SAMPLE_OF_CLASS.c.name),
    "a sample that is only counted": select(func.count()).select_from(SAMPLE_OF_CLASS),
    "a sample beside a class": select(User.name, SAMPLE.c.name).join(SAMPLE, sa.true()),
    "an alias of a sample": select(Call.id).where(
        Call.user_id.in_(select(SAMPLE.alias().c.id))
    ),
    "whole rows beside a class": select(
        User.name, select(func.json_agg(WHOLE_ROW)).scalar_subquery()
    ),
    "whole rows of a table beside another class": select(
        Call.id, func.row_to_json(USERS.table_valued())
    ),
    "columns of a table in a bundle": select(Bundle("user", USERS.c.name)),
    "a full join to a class": select(Call.id, User.name).outerjoin(
        User, User.id == Call.user_id, full=True
    ),
    "a full join to an alias": select(Call.id, ALIAS.name).join(
        ALIAS, sa.false(), full=True
    ),
    "a full join along a relationship": select(Call.id).outerjoin(Call.user, full=True),
    "a full join behind another": select(Call.id, Extension.number)
    .join(User, User.id == Call.user_id)
    .outerjoin(Extension, sa.false(), full=True),
    "a full join in a subquery": select(Call.id).where(
        select(ALIAS.id)
        .select_from(Call)
        .outerjoin(ALIAS, sa.false(), full=True)
        .exists()
    ),
    "orm.join": select(ALIAS.name).select_from(join(User, ALIAS, sa.true())),
    "join": select(ALIAS.name).select_from(sa.join(User, ALIAS, sa.true())),
    "join of a class without tenant": select(User.name).select_from(
        sa.join(Call, User, sa.true())
    ),
}

WRITES: dict[str, sa.Executable] = {
    "in a CTE": select(sa.delete(EXTENSIONS).returning(EXTENSIONS.c.id).cte("d").c.id),
    "of a class, in a CTE": select(
        sa.update(User).values(desk="x").returning(User.id).cte("u").c.id
    ),
    "as instances": select(User).from_statement(
        sa.update(User).values(desk="x").returning(User)
    ),
    "to a table, as a class says": sa.delete(EXTENSIONS).where(
        select(User.id).exists()
    ),
    "to an alias": sa.update(TABLE_ALIAS).values(desk="x"),
    "to an alias of any name": sa.update(NAMED_ALIAS).values(desk="x"),
    "OR REPLACE": sa.insert(User).values(NEW).prefix_with("OR REPLACE"),
    "FROM another class": sa.update(User)
    .values(desk=Extension.number)
    .where(Extension.id > 0),
    "FROM an alias": sa.update(User).values(desk=ALIAS.name).where(ALIAS.id > 0),
    "FROM a sample": sa.update(User).values(desk=SAMPLE.c.name).where(SAMPLE.c.id > 0),
    "FROM a sample, in a table": sa.update(USERS)
    .values(desk=SAMPLE.c.name)
    .where(SAMPLE.c.id != USERS.c.id),
    "whole rows, in a table": sa.update(USERS).values(
        desk=sa.cast(func.row_to_json(WHOLE_ROW), sa.String)
    ),
    "where a sample says": sa.delete(Call).where(Call.user_id == SAMPLE.c.id),
    "where another class says": sa.update(User)
    .values(desk="x")
    .where(Extension.forward_id == User.id),
    "USING another class": sa.delete(Extension).where(User.id == Extension.user_id),
    "what a query returns, in a table": sa.update(USERS).values(desk=GREATEST),
    "what a query of tables returns": sa.update(USERS).values(desk=GREATEST_OF_TABLE),
    "what an alias holds, in a table": sa.update(USERS)
    .values(desk=TABLE_ALIAS.c.name)
    .where(TABLE_ALIAS.c.id > 0),
    "a new row by a query": sa.insert(User).values(id=9, name=GREATEST),
    "new rows by a query": sa.insert(USERS).values([NEW, {"id": 8, "name": GREATEST}]),
    "an upsert by a query": postgresql.insert(User)
    .values(NEW)
    .on_conflict_do_update(index_elements=["id"], set_={"desk": GREATEST}),
    "a new row by a literal column": sa.insert(User).values(
        id=9, name=GREATEST_AS_TEXT
    ),
    "new rows by a literal column": sa.insert(Call).values(
        [{"id": 9, "user_id": GREATEST_AS_TEXT}]
    ),
    "a literal column": sa.update(User).values(desk=GREATEST_AS_TEXT),
    "an upsert by a literal column": postgresql.insert(User)
    .values(NEW)
    .on_conflict_do_update(index_elements=["id"], set_={"desk": GREATEST_AS_TEXT}),
    "an upsert if a literal column says so": postgresql.insert(User)
    .values(NEW)
    .on_conflict_do_update(
        index_elements=["id"], set_={"desk": "x"}, where=GREATEST_AS_TEXT == "b"
    ),
}

MOVES: dict[str, sa.Executable] = {
    "a new row": sa.insert(User).values(**NEW, tenant_id=B),
    "a new row of the table": sa.insert(USERS).values({**NEW, "tenant_id": B}),
    "new rows": sa.insert(User).values([{**NEW, "tenant_id": B}]),
    "a new row by position": sa.insert(USERS).values([(9, "x", "", B)]),
    "by a query": sa.insert(User).from_select(
        ["id", "name", "tenant_id"], select(ALIAS.id + 9, ALIAS.name, ALIAS.tenant_id)
    ),
    "by an expression": sa.insert(User).values(**NEW, tenant_id=func.random()),
    "as text": sa.insert(User).values(**NEW, tenant_id=str(A)),
    "an update": sa.update(User).values(tenant_id=B),
    "an update of the table": sa.update(USERS).values({USERS.c.tenant_id: B}),
    "an ordered update": sa.update(User).ordered_values((User.tenant_id, B)),
    "an update by a parameter": sa.update(USERS).values(tenant_id=sa.bindparam("it")),
    "an upsert": postgresql.insert(User)
    .values(NEW)
    .on_conflict_do_update(index_elements=["id"], set_={"tenant_id": B}),
}


@pytest.mark.parametrize(
    "ways",
    [TEXTS, EITHER, ALONE, NOWHERE, COPIES, BESIDE, WRITES, MOVES],
    ids=["text", "either", "alone", "nowhere", "copy", "beside", "write", "move"],
)
async def test_what_cannot_be_narrowed_is_not_sent(
    platform: Tenants, ways: dict[str, sa.Executable]
) -> None:
    sent = []
    for way, statement in ways.items():
        async with platform.sessions() as session:
            with set_tenant(A), count_sql(platform.engine) as statements:
                try:
                    await session.execute(statement, {"it": B} if "para" in way else {})
                except BoundaryError:
                    assert statements.total == 0
                else:
                    sent.append(way)
    assert not sent


GIVEN: dict[str, tuple[sa.Executable, dict[str, object]]] = {
    "a named parameter of a new row": (
        sa.insert(User).values(**NEW, tenant_id=sa.bindparam("it", A)),
        {"it": B},
    ),
    "a named parameter of an update": (
        sa.update(User).values(tenant_id=sa.bindparam("it", A)),
        {"it": B},
    ),
    "a named parameter of an update of the table": (
        sa.update(USERS).values(tenant_id=sa.bindparam("it", A)),
        {"it": B},
    ),
    "a literal": (
        sa.update(User).values(tenant_id=sa.literal(A, sa.Uuid)),
        {"param_1": B},
    ),
    "rows of the table": (
        sa.insert(USERS).values([{**NEW, "tenant_id": A}, {**NEW, "tenant_id": A}]),
        {"tenant_id_m0": B, "tenant_id_m1": B},
    ),
    "a literal column, by key": (
        sa.update(User),
        {"id": 1, "desk": GREATEST_AS_TEXT},
    ),
}


@pytest.mark.parametrize("way", GIVEN)
async def test_a_parameter_replaces_nothing_that_the_boundary_has_judged(
    platform: Tenants, way: str
) -> None:
    async with platform.sessions() as session:
        with set_tenant(A), count_sql(platform.engine) as sent:
            with pytest.raises(BoundaryError):
                await session.execute(*GIVEN[way])
            assert sent.total == 0


@pytest.mark.parametrize("target", [User, USERS])
async def test_a_parameter_does_not_replace_the_tenant_of_the_filter(
    platform: Tenants, target: type[User] | sa.Table
) -> None:
    guesses = [f"{name}_{n}" for name in ("param", "tenant_id", "own") for n in (1, 2)]
    async with platform.sessions() as session:
        with set_tenant(A):
            found = await session.execute(select(target), dict.fromkeys(guesses, B))
            assert [row[0] for row in found] in ([1], [await session.get(User, 1)])


@pytest.mark.parametrize("target", [User, USERS])
async def test_rows_given_as_parameters_are_the_callers_own(
    platform: Tenants, target: type[User] | sa.Table
) -> None:
    rows = [{"id": 8, "name": "x", "tenant_id": A}, {**NEW, "tenant_id": B}]
    async with platform.sessions() as session:
        with set_tenant(A):
            with pytest.raises(
                BoundaryError, match="tenant_id is not the caller's own"
            ):
                await session.execute(sa.insert(target), rows)
            several: Any = tuple(rows)
            with pytest.raises(BoundaryError, match="not the caller's own"):
                await session.execute(sa.insert(target), several)
            with pytest.raises(BoundaryError):
                await session.execute(sa.insert(target), rows[1])
            await session.execute(sa.insert(target), rows[:1])
            assert (await session.scalars(select(User.id))).all() == [1, 8]


async def test_rows_updated_by_key_are_not_moved(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A), pytest.raises(BoundaryError):
            await session.execute(sa.update(User), [{"id": 1, "tenant_id": B}])


async def test_the_callers_own_value_may_be_named(platform: Tenants) -> None:
    ways: list[sa.Executable] = [
        sa.insert(User).values(**NEW, tenant_id=A),
        sa.update(User).values(tenant_id=A),
        sa.update(USERS).values(tenant_id=A, desk=USERS.c.name),
    ]
    for statement in ways:
        async with platform.sessions() as session:
            with set_tenant(A):
                result: Any = await session.execute(statement)
                assert result.rowcount == 1


async def test_the_legacy_bulk_methods_are_refused(platform: Tenants) -> None:
    def mapped(session: object, name: str) -> None:
        row = {**NEW, "tenant_id": B}
        getattr(session, name)(User, [row])

    async with platform.sessions() as session:
        with set_tenant(A):
            for name in ("bulk_insert_mappings", "bulk_update_mappings"):
                with pytest.raises(BoundaryError, match="use execute"):
                    await session.run_sync(mapped, name)
            with pytest.raises(BoundaryError, match="use execute"):
                await session.run_sync(lambda s: s.bulk_save_objects([User(**NEW)]))


async def test_within_bypass_what_is_refused_is_sent(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with bypass_tenancy():
            assert await session.scalar(ALONE["a function of a class"]) == "b"
            for way in ("text", "instances from text", "text as a condition"):
                await session.execute(TEXTS[way])
            for way in ("a table beside its class", "orm.join"):
                await session.execute(BESIDE[way])
            await session.execute(sa.update(Extension).values(user_id=2, tenant_id=B))
            assert {*await session.scalars(select(Extension.tenant_id))} == {B}


async def test_text_that_names_no_such_table_is_sent(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            assert await session.scalar(sa.text("SELECT count(*) FROM calls")) == 2
            either = select(Call.id).where(sa.text("id = 2 OR user_id = 2"))
            assert (await session.scalars(either)).all() == [2]
            query = select(User.id).where(sa.text("desk = ''"))
            assert (await session.scalars(query)).all() == [1]


async def test_expressions_of_the_same_row_and_criteria_without_text_are_sent(
    platform: Tenants,
) -> None:
    loud = select(User).options(with_expression(User.note, User.name + "!"))
    joined = select(User.name).join(User.extensions.and_(Extension.number == "1001"))
    either = select(User.id).where(sa.or_(sa.text("id > 0"), User.desk == ""))
    rows: sa.Select[Any] = select(ROWS.data([("a",)]).cte())
    lazy = sa.lambda_stmt(lambda: select(User.name))
    async with platform.sessions() as session:
        with set_tenant(A):
            assert [one.note for one in await session.scalars(loud)] == ["a!"]
            for query in (joined, rows, lazy):
                assert (await session.scalars(query)).all() == ["a"]
            assert (await session.scalars(either)).all() == [1]


async def test_full_joins_and_bundles_without_a_tenants_rows_are_sent(
    platform: Tenants,
) -> None:
    other = aliased(Call)
    full = select(Call.id).join(other, Call.id == other.id, full=True)
    pair: list[Any] = [Bundle("call", Call.id), Bundle("user", User.name)]
    numbered = select(*pair).join(User, User.id == Call.user_id)
    async with platform.sessions() as session:
        with set_tenant(A):
            assert {*await session.scalars(full)} == {1, 2}
            assert (await session.execute(numbered)).all() == [((1,), ("a",))]


async def test_a_write_to_a_table_without_tenant_reads_the_tenants_rows(
    platform: Tenants,
) -> None:
    """The rows that it changes are asked for first, to synchronise the session."""
    delete = sa.delete(Call).where(Call.id.in_(select(User.id)))
    async with platform.sessions() as session:
        with set_tenant(A):
            for how in ("fetch", "evaluate", False):
                options = {"synchronize_session": how}
                if how != "evaluate":  # which a query in the condition excludes
                    await session.execute(delete, execution_options=options)
            assert (await session.scalars(select(Call.id))).all() == [2]


class LocalBase(DeclarativeBase):
    """The tables of another schema of names."""


class LocalMixin:
    """Who pays."""

    payer: Mapped[str]


class Invoice(LocalMixin, LocalBase):
    """What somebody pays, in a table whose name is in two cases."""

    __tablename__ = "Invoices"

    id: Mapped[int] = mapped_column(primary_key=True)


async def test_a_name_in_mixed_case_is_found_in_any(engine: AsyncEngine) -> None:
    boundary = Boundary(LocalMixin, "payer", lambda: "acme")
    assert Invoice.__tablename__ == "Invoices"

    class Bounded(Session):
        """A session of this test."""

    sa.event.listen(Bounded, "do_orm_execute", boundary.admit)
    async with AsyncSession(engine, sync_session_class=Bounded) as session:
        for text in ('TABLE "Invoices"', "TABLE invoices", "TABLE INVOICES"):
            with pytest.raises(BoundaryError):
                await session.execute(sa.text(text))


async def test_what_is_overlooked_is_what_the_modules_say(platform: Tenants) -> None:
    beside = select(User.name, select(func.max(USERS.c.name)).scalar_subquery())
    overlooked = beside.select_from(User).with_only_columns(
        User, select(func.max(TABLE_ALIAS.c.name)).scalar_subquery()
    )
    async with platform.sessions() as session:
        with set_tenant(A):
            with pytest.raises(BoundaryError):
                await session.execute(overlooked)
            own_table = select(User, select(func.max(USERS.c.name)).scalar_subquery())
            assert (await session.execute(own_table)).one()[1] == "b"
            connection = await session.connection()
            found = await connection.execute(select(USERS.c.name).order_by(USERS.c.id))
            assert found.all() == [("a",), ("b",)]


async def test_the_naive_check_of_the_text_lets_other_rows_through(
    platform: Tenants, proof: Proof
) -> None:
    require_condition(platform.engine.sync_engine, {"users", "extensions"}, "tenant_id")
    async with AsyncSession(platform.engine) as session:
        with pytest.raises(InvalidRequestError):
            await session.execute(select(User.id))
        everyone = (await session.execute(select(User.id, User.tenant_id))).all()
        either = select(User.id).where(sa.or_(User.tenant_id == A, User.id > 0))
        assert len(everyone) == 2
        assert len((await session.execute(either)).all()) == 2
    proof.breaks(
        "all users were selected, with their tenants",
        "the text named tenant_id, so the rows of both tenants came back",
    )
    async with AsyncSession(platform.engine) as session:
        await session.execute(sa.update(Extension).values(user_id=2, tenant_id=B))
        await session.commit()
    assert await platform.everything(select(EXTENSIONS.c.tenant_id)) == [(B,), (B,)]
    proof.breaks(
        "an UPDATE without WHERE gave every extension to one tenant",
        "the text named tenant_id, so it was sent",
    )
