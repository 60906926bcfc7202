"""What a row filter cannot narrow is refused, each way of writing it, and no other."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, join

from catalogue.plugin import Proof
from snippets.auth.tenancy import bypass_tenancy, set_tenant
from snippets.auth.tenant_boundary import BoundaryError
from snippets.auth.tenant_boundary_naive import require_condition
from tests.support.counters import count_sql
from tests.support.tenants import A, B, Base, Call, Extension, Tenants, User, tenants

USERS = Base.metadata.tables["users"]
EXTENSIONS = Base.metadata.tables["extensions"]
ALIAS = aliased(User)
TABLE_ALIAS: Any = USERS.alias()
GREATEST = select(func.max(ALIAS.name)).scalar_subquery()
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
    "OR REPLACE": sa.insert(User).values(NEW).prefix_with("OR REPLACE"),
    "FROM another class": sa.update(User)
    .values(desk=Extension.number)
    .where(Extension.id > 0),
    "FROM an alias": sa.update(User).values(desk=ALIAS.name).where(ALIAS.id > 0),
    "where another class says": sa.update(User)
    .values(desk="x")
    .where(Extension.forward_id == User.id),
    "USING another class": sa.delete(Extension).where(User.id == Extension.user_id),
    "what a query returns, in a table": sa.update(USERS).values(desk=GREATEST),
    "what an alias holds, in a table": sa.update(USERS)
    .values(desk=TABLE_ALIAS.c.name)
    .where(TABLE_ALIAS.c.id > 0),
    "a new row by a query": sa.insert(User).values(id=9, name=GREATEST),
    "new rows by a query": sa.insert(USERS).values([NEW, {"id": 8, "name": GREATEST}]),
    "an upsert by a query": postgresql.insert(User)
    .values(NEW)
    .on_conflict_do_update(index_elements=["id"], set_={"desk": GREATEST}),
    "an upsert if a query says so": postgresql.insert(User)
    .values(NEW)
    .on_conflict_do_update(
        index_elements=["id"], set_={"desk": "x"}, where=USERS.c.name == GREATEST
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
    [TEXTS, COPIES, BESIDE, WRITES, MOVES],
    ids=["text", "copy", "beside", "write", "move"],
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
            query = select(User.id).where(sa.text("desk = ''"))
            assert (await session.scalars(query)).all() == [1]


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
