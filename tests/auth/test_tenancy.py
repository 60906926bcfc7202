"""A tenant's rows are that tenant's, and nobody's without one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import orm, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.plugin import Proof
from snippets.auth.tenancy import (
    NoTenantError,
    TenantMixin,
    bypass_tenancy,
    check_tables,
    current_tenant,
    install_tenancy,
    set_tenant,
)
from snippets.auth.tenancy_naive import NaiveRepository, NaiveTenantMixin, tenant
from snippets.auth.tenant_boundary import BoundaryError
from snippets.database.async_session import create_engine_and_sessions, session_scope
from tests.support.counters import count_sql
from tests.support.tenants import A, B, Base, Call, Extension, Tenants, User, tenants


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Tenants]:
    """Two tenants with a row of each kind."""
    async with tenants(database_url) as platform:
        yield platform


async def test_without_a_tenant_nothing_is_sent_and_the_error_says_why(
    platform: Tenants,
) -> None:
    statements = (
        select(User),
        select(User.__table__),
        sa.insert(User).values(id=9, name="x"),
        sa.update(User).values(desk="x"),
        sa.delete(Extension),
    )
    for statement in statements:
        async with platform.sessions() as session:
            error = pytest.raises(NoTenantError, match=r"enter set_tenant\(\)")
            with count_sql(platform.engine) as sent, error:
                await session.execute(statement)
            assert sent.total == 0


async def test_a_flush_without_a_tenant_writes_nothing(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            user = await session.get_one(User, 1)
        user.desk = "x"
        with count_sql(platform.engine) as sent, pytest.raises(NoTenantError):
            await session.flush()
        assert sent.total == 0


async def test_tables_of_no_tenant_need_none(platform: Tenants) -> None:
    async with session_scope(platform.sessions) as session:
        assert len((await session.scalars(select(Call))).all()) == 2


async def test_the_tenant_is_read_when_a_statement_is_sent(platform: Tenants) -> None:
    with set_tenant(A):
        session, query = platform.sessions(), select(User.id)
        added = User(id=9, name="x")
        session.add(added)
    async with session:
        with set_tenant(B):
            assert (await session.scalars(query)).all() == [2, 9]
            assert added.tenant_id == B
        with pytest.raises(NoTenantError):
            await session.scalars(query)


async def test_only_sessions_created_after_the_installation_are_narrowed(
    database_url: str,
) -> None:
    async with tenants(database_url) as platform, AsyncSession(platform.engine) as free:
        assert len((await free.scalars(select(User))).all()) == 2


async def test_the_innermost_scope_counts_and_ends_however_it_is_left() -> None:
    with set_tenant(A):
        with bypass_tenancy():
            with pytest.raises(NoTenantError):
                current_tenant()
            with set_tenant(B):
                assert current_tenant() == B
        with pytest.raises(KeyError), set_tenant(B):
            raise KeyError
        assert current_tenant() == A
    with pytest.raises(NoTenantError):
        current_tenant()


@pytest.mark.parametrize("value", [None, str(A), 7, "all"])  # of no such type
async def test_only_a_uuid_names_a_tenant(value: UUID) -> None:
    with pytest.raises(TypeError, match="UUID"), set_tenant(value):
        raise AssertionError
    with pytest.raises(NoTenantError):
        current_tenant()


async def test_a_task_and_a_thread_keep_the_scope_they_were_started_in() -> None:
    started, over = asyncio.Event(), asyncio.Event()

    async def later() -> UUID:
        started.set()
        await over.wait()
        return current_tenant()

    with set_tenant(A):
        task = asyncio.create_task(later())
        await started.wait()
        assert await asyncio.to_thread(current_tenant) == A
    over.set()
    assert await task == A


WRITES: dict[str, Callable[[User], object]] = {
    "changed": lambda user: setattr(user, "desk", "x"),
    "moved to the caller": lambda user: setattr(user, "tenant_id", A),
}


@pytest.mark.parametrize(
    "how", ["changed", "moved to the caller", "deleted", "expired"]
)
async def test_a_row_of_another_tenant_in_the_session_is_not_written(
    platform: Tenants, how: str
) -> None:
    async with platform.sessions() as session:
        with bypass_tenancy():
            other = await session.get_one(User, 2)
        with set_tenant(A):
            if how == "deleted":
                await session.delete(other)
            elif how == "expired":
                session.expire(other)
                other.desk = "x"
            else:
                WRITES[how](other)
            error = pytest.raises((BoundaryError, orm.exc.ObjectDeletedError))
            with count_sql(platform.engine) as sent, error:
                await session.flush()
            assert not [text for text in sent.texts if "SELECT" not in text]
    rows = await platform.everything(
        select(User.tenant_id, User.desk).where(User.id == 2)
    )
    assert rows == [(B, "")]


@pytest.mark.parametrize("how", ["loaded in part", "expired", "expired in part"])
async def test_a_row_whose_tenant_is_not_loaded_is_not_taken_over(
    platform: Tenants, how: str
) -> None:
    async with platform.sessions() as session:
        with bypass_tenancy():
            columns = (
                [User.id] if how == "loaded in part" else [User.id, User.tenant_id]
            )
            query = select(User).where(User.id == 2).options(orm.load_only(*columns))
            other = (await session.scalars(query)).one()
            if how != "loaded in part":
                session.expire(other, ["tenant_id"] if "part" in how else None)
        with set_tenant(A), count_sql(platform.engine) as sent:
            other.tenant_id = A
            with pytest.raises(BoundaryError):
                await session.flush()
            assert not [text for text in sent.texts if "UPDATE" in text]


async def test_an_own_row_that_is_loaded_in_part_is_written(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            query = select(User).options(orm.load_only(User.name))
            (await session.scalars(query)).one().desk = "x"
            await session.flush()
            assert await session.scalar(select(User.desk)) == "x"


USERS = Base.metadata.tables["users"]
EXPRESSIONS: dict[str, Any] = {
    "a query": select(sa.func.max(User.name)).scalar_subquery(),
    "a query of the table": select(sa.func.max(USERS.c.name)).scalar_subquery(),
    "another row": Extension.number,
    "text": sa.text("(SELECT max(name) FROM users)"),
    "a literal column": sa.literal_column("(SELECT max(name) FROM users)"),
}


@pytest.mark.parametrize("way", EXPRESSIONS)
@pytest.mark.parametrize("model", [User, Call])
async def test_a_flush_reads_no_row_of_another_tenant(
    platform: Tenants, way: str, model: type[User | Call]
) -> None:
    async with platform.sessions() as session:
        with set_tenant(A), count_sql(platform.engine) as sent:
            row = await session.get_one(model, 1)
            setattr(row, "desk" if model is User else "user_id", EXPRESSIONS[way])
            with pytest.raises(BoundaryError):
                await session.flush()
            assert sent.total == 1


async def test_a_flush_sends_an_expression_of_the_row_itself(platform: Tenants) -> None:
    expression: Any = User.name + "!"
    async with platform.sessions() as session:
        with set_tenant(A):
            user = await session.get_one(User, 1)
            user.desk = expression
            await session.flush()
            assert await session.scalar(select(User.desk)) == "a!"


async def test_a_new_row_of_another_tenant_is_not_written(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A), count_sql(platform.engine) as sent:
            session.add(User(id=9, name="x", tenant_id=B))
            with pytest.raises(BoundaryError):
                await session.flush()
        assert sent.total == 0


async def test_an_own_row_is_not_moved_to_another_tenant(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            (await session.get_one(User, 1)).tenant_id = B
            with pytest.raises(BoundaryError):
                await session.flush()


async def test_the_database_refuses_a_reference_to_another_tenants_row(
    platform: Tenants,
) -> None:
    ways: list[sa.Executable] = [
        sa.insert(Extension).values(id=9, user_id=2),
        sa.update(Extension).values(user_id=2),
    ]
    for statement in ways:
        async with platform.sessions() as session:
            with set_tenant(A), pytest.raises(IntegrityError, match=r"(?i)foreign key"):
                await session.execute(statement)


@pytest.mark.parametrize("relationship", ["user", "desk_of"])
async def test_a_relationship_to_another_tenants_row_takes_no_row_along(
    platform: Tenants, relationship: str
) -> None:
    async with platform.sessions() as session:
        with bypass_tenancy():
            other = await session.get_one(User, 2)
            own = (
                await session.scalars(select(Extension).where(Extension.id == 1))
            ).one()
        with set_tenant(A):
            # Only the first has a collection, and so changes the other row too.
            setattr(own, relationship, other)
            with pytest.raises(BoundaryError):
                await session.commit()
        await session.rollback()
    rows = await platform.everything(
        select(Extension.tenant_id, Extension.user_id).where(Extension.id == 1)
    )
    assert rows == [(A, 1)]


async def test_what_is_unique_is_unique_within_the_tenant(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            session.add(User(id=9, name="b"))  # which is what a user of B is called
            await session.flush()
            session.add(User(id=10, name="a"))
            with pytest.raises(IntegrityError):
                await session.flush()


NO_TENANT = {"id": 9, "name": "x", "tenant_id": None}


async def test_the_column_is_never_null(platform: Tenants) -> None:
    assert not User.__table__.c.tenant_id.nullable
    async with platform.sessions() as session:
        with bypass_tenancy(), pytest.raises(IntegrityError):
            await session.execute(sa.insert(User).values(NO_TENANT))


def local_models(*rules: sa.schema.SchemaItem) -> tuple[type, sa.MetaData, list[type]]:
    """Return a mixin, its tables, and its models, of which one has these rules.

    Keep the models: nothing else does.
    """

    class LocalBase(DeclarativeBase):
        """The tables of one test."""

    class LocalMixin:
        """Whose a row is, in one test."""

        tenant_id: Mapped[UUID]

    class Owner(LocalMixin, LocalBase):
        """What is referred to."""

        __tablename__ = "owners"
        __table_args__ = (sa.UniqueConstraint("tenant_id", "id"),)

        id: Mapped[int] = mapped_column(primary_key=True)

    class Owned(LocalMixin, LocalBase):
        """What refers to it."""

        __tablename__ = "owned"
        __table_args__ = rules

        id: Mapped[int] = mapped_column(primary_key=True)
        owner_id: Mapped[int]
        email: Mapped[str]
        live: Mapped[bool]

    return LocalMixin, LocalBase.metadata, [Owner, Owned]


def single() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["owner_id"], ["owners.id"])


def pair() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "owner_id"], ["owners.tenant_id", "owners.id"]
    )


CROSSING: dict[str, Callable[[], sa.schema.SchemaItem]] = {
    "a foreign key of owned": single,
    "a foreign key of owned leaves": lambda: sa.ForeignKeyConstraint(
        ["id", "owner_id"], ["owners.tenant_id", "owners.id"]
    ),
    "owned has a unique rule": lambda: sa.UniqueConstraint("email"),
    "owned has a unique rule without": lambda: sa.UniqueConstraint("email", "live"),
    "owned has a unique rule without tenant_id": lambda: sa.Index(
        "i", sa.text("lower(email)"), unique=True
    ),
}


@pytest.mark.parametrize("message", CROSSING)
async def test_a_constraint_that_crosses_tenants_is_found_at_start(
    message: str,
) -> None:
    mixin, _, kept = local_models(CROSSING[message]())
    with pytest.raises(TypeError, match=message):
        check_tables(mixin)
    assert len(kept) == 2


MAPPED: dict[str, Callable[[sa.Table, sa.Table], sa.ColumnElement[Any]]] = {
    "a query of another table": lambda owners, _: select(
        sa.func.max(owners.c.id)
    ).scalar_subquery(),
    "a query of its own": lambda _, owned: select(
        sa.func.max(owned.alias().c.id)
    ).scalar_subquery(),
    "a column of another table": lambda owners, _: owners.c.id + 0,
    "a literal column": lambda *_: sa.literal_column("(SELECT max(id) FROM owners)"),
}


@pytest.mark.parametrize("way", MAPPED)
@pytest.mark.parametrize("deferred", [True, False])
async def test_a_mapped_expression_that_reads_other_rows_is_found_at_start(
    way: str, *, deferred: bool
) -> None:
    mixin, metadata, (_, owned) = local_models(pair())
    owners, table = metadata.tables["owners"], metadata.tables["owned"]
    mapper: orm.Mapper[Any] = orm.class_mapper(owned)
    mapper.add_property("next", orm.column_property(table.c.id + 1))
    check_tables(mixin)
    other = orm.column_property(MAPPED[way](owners, table), deferred=deferred)
    mapper.add_property("other", other)
    with pytest.raises(BoundaryError, match="not narrowed"):
        check_tables(mixin)


async def test_constraints_that_keep_to_the_tenant_are_accepted() -> None:
    mixin, metadata, kept = local_models(
        pair(),
        single(),  # beside one that takes the tenant along
        sa.UniqueConstraint("tenant_id", "email"),
        sa.UniqueConstraint("id", "live"),  # which the primary key makes unique anyway
        sa.Index("found", "email"),
    )
    check_tables(mixin)
    assert metadata.tables.keys() == {"owners", "owned"}  # and both were checked
    assert len(kept) == 2


@pytest.mark.parametrize("rule", [single, pair])
async def test_a_table_of_links_takes_the_tenant_along(
    rule: Callable[[], sa.ForeignKeyConstraint],
) -> None:
    mixin, metadata, kept = local_models(pair())
    column = sa.Column("tenant_id", sa.Uuid), sa.Column("owner_id", sa.Integer)
    sa.Table("links", metadata, *column, rule())
    if rule is pair:
        check_tables(mixin)
    else:
        with pytest.raises(TypeError, match="a foreign key of links"):
            check_tables(mixin)
    assert len(kept) == 2


async def test_the_installation_checks_the_tables() -> None:
    class Crossing(DeclarativeBase):
        """The tables of this test."""

    class Device(TenantMixin, Crossing):
        """A telephone whose address is unique on the whole platform."""

        __tablename__ = "devices"

        id: Mapped[int] = mapped_column(primary_key=True)
        mac: Mapped[str] = mapped_column(unique=True)

    assert Device.__table__ is not None
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    try:
        with pytest.raises(TypeError, match="devices has a unique rule"):
            install_tenancy(sessions)
    finally:
        Crossing.registry.dispose()
        await engine.dispose()


async def test_another_tenants_id_is_answered_404(platform: Tenants) -> None:
    app = FastAPI()

    async def tenant_of(user: str) -> AsyncIterator[None]:
        with set_tenant({"ada": A, "bob": B}[user]):
            yield

    @app.get("/users/{key}", dependencies=[Depends(tenant_of)])
    async def show(key: int) -> str:
        async with session_scope(platform.sessions) as session:
            user = await session.get(User, key)
            if user is None:
                raise HTTPException(404)
            return user.name

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://it") as client:
        answers = {
            (user, key): (await client.get(f"/users/{key}?user={user}")).status_code
            for user in ("ada", "bob")
            for key in (1, 2, 3)
        }
        assert (await client.get("/users/1?user=ada")).json() == "a"
    assert answers == {
        ("ada", 1): 200,
        ("ada", 2): 404,
        ("ada", 3): 404,
        ("bob", 1): 404,
        ("bob", 2): 200,
        ("bob", 3): 404,
    }


async def test_two_tenants_in_lockstep_never_see_each_others_rows(
    platform: Tenants,
) -> None:
    both = asyncio.Barrier(2)

    async def work(tenant_id: UUID, key: int) -> None:
        with set_tenant(tenant_id):
            async with platform.sessions() as session:
                for _ in range(5):
                    await both.wait()
                    assert (await session.scalars(select(User.id))).all() == [key]
                    await both.wait()
                    assert await session.get(User, 3 - key) is None
                    assert current_tenant() == tenant_id

    await asyncio.gather(work(A, 1), work(B, 2))


async def test_an_instance_made_up_by_hand_is_out_of_reach(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            forged = User(id=2, tenant_id=A, name="b")
            orm.make_transient_to_detached(forged)
            session.add(forged)
            forged.desk = "x"
            await session.flush()
            with bypass_tenancy():
                desk = select(User.desk).where(User.id == 2)
                assert await session.scalar(desk) == "x"


async def test_isolation_costs_no_statement(platform: Tenants, proof: Proof) -> None:
    async def work(session: AsyncSession) -> None:
        held = (await session.scalars(select(User))).all()
        assert await session.get(User, 1) in held
        await session.execute(sa.update(User).values(desk="x"))
        session.add(User(id=9, name="x", tenant_id=A))
        await session.flush()

    async with platform.sessions() as session:
        with set_tenant(A), count_sql(platform.engine) as isolated:
            await work(session)
    async with AsyncSession(platform.engine) as session:
        with count_sql(platform.engine) as plain:
            await work(session)
    assert isolated.total == plain.total == 3
    proof.cost(
        "query, get by key, UPDATE and INSERT",
        statements=isolated.total,
        without_isolation=plain.total,
    )


class NaiveBase(DeclarativeBase):
    """The tables of the naive version."""


class NaiveUser(NaiveTenantMixin, NaiveBase):
    """Somebody with a telephone."""

    __tablename__ = "naive_users"

    id: Mapped[int] = mapped_column(primary_key=True)
    desk: Mapped[str] = mapped_column(default="")


async def test_the_naive_version_shows_and_changes_the_rows_of_others(
    engine: AsyncEngine, proof: Proof
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(NaiveBase.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add_all([NaiveUser(id=1, tenant_id=A), NaiveUser(id=2, tenant_id=B)])
        await session.commit()
    async with AsyncSession(engine) as session:
        users = NaiveRepository(NaiveUser, session)
        token = tenant.set(A)
        assert [user.id for user in await users.list()] == [1]
        assert await users.count() == 2
        proof.breaks("a tenant with one user counted its users", "it counted 2")
        other = await session.get(NaiveUser, 2)
        assert other is not None
        assert other.tenant_id == B
        proof.breaks("a tenant asked for the key of another's row", "it got the row")
        result: Any = await session.execute(sa.update(NaiveUser).values(desk="x"))
        assert result.rowcount == 2
        proof.breaks(
            "a tenant changed all its users", "2 rows changed, one not its own"
        )
        tenant.reset(token)
        assert len(await users.list()) == 2
        proof.breaks("a job without tenant listed users", "it got those of all tenants")
