"""A condition holds for every statement of a session, and for what the session holds.

How far it reaches is shown for a real condition, with every kind of statement, by the
tests of soft deletion.
"""

import gc
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    aliased,
    join,
    mapped_column,
    query_expression,
    selectinload,
    with_expression,
)
from sqlalchemy.orm import relationship as related
from sqlalchemy.sql import visitors

from catalogue.plugin import Proof
from snippets.database.async_session import create_engine_and_sessions
from snippets.database.narrow_tables import narrow_tables
from snippets.database.row_filter import RowFilter, hiding, models_of, shares_name
from snippets.database.row_filter_naive import filter_queries
from tests.support.counters import count_sql
from tests.support.databases import create_tables

Sessions: TypeAlias = async_sessionmaker[AsyncSession]
Write: TypeAlias = Callable[[AsyncSession], Awaitable[object]]


class Base(DeclarativeBase):
    """The tables of these tests."""


class ClosedMixin:
    """Whether a row is closed, and so to be hidden."""

    closed: Mapped[bool] = mapped_column(default=False)


class SecretMixin:
    """Whether a row is secret: another reason to hide it."""

    secret: Mapped[bool] = mapped_column(default=False)


class Tenant(ClosedMixin, Base):
    """A customer of the telephony platform."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)
    calls: Mapped[list["Call"]] = related(order_by="Call.id")


class Call(SecretMixin, ClosedMixin, Base):
    """A call of a tenant, hidden for either reason."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(sa.ForeignKey("tenants.id"))
    seconds: Mapped[int] = mapped_column(default=0)


class PlainCall(Base):
    """The same row, of which nobody told that it can be hidden."""

    __table__ = Base.metadata.tables["calls"]


class ArchivedMixin(ClosedMixin):
    """A mixin with the columns of another."""


class Invoice(ArchivedMixin, Base):
    """An invoice, closed like a call, but by a mixin in between."""

    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(primary_key=True)


class Note(Base):
    """A row that no filter is about."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="")


class Counted(Base):
    """A note that can tell the number of calls."""

    __table__ = Base.metadata.tables["notes"]

    calls: Mapped[int] = query_expression()


def is_open(row: type[ClosedMixin]) -> sa.ColumnElement[bool]:
    return row.closed.is_(False)


def is_public(row: type[SecretMixin]) -> sa.ColumnElement[bool]:
    return row.secret.is_(False)


def is_closed(row: object, options: Mapping[str, Any]) -> bool:
    return isinstance(row, ClosedMixin) and row.closed and "closed" not in options


def is_secret(row: object, _: Mapping[str, Any]) -> bool:
    return isinstance(row, SecretMixin) and row.secret


CALLS = Base.metadata.tables["calls"]


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """An open tenant with calls 1 (open), 2 (closed), 3 (secret); a closed tenant."""
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    async with AsyncSession(engine) as session:
        session.add_all([Tenant(id=1), Tenant(id=2, closed=True), Note(id=1)])
        await session.flush()
        session.add_all(
            [
                Call(id=1, tenant_id=1),
                Call(id=2, tenant_id=1, closed=True),
                Call(id=3, tenant_id=1, secret=True),
            ]
        )
        await session.commit()
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """The engine that nothing filters."""
    return engine_and_sessions[0]


def install(
    sessions: Sessions,
    mixin: type,
    condition: Callable[[Any], sa.ColumnElement[bool]],
    is_hidden: Callable[[object, Mapping[str, Any]], bool],
) -> None:
    """Filter the sessions that are made from now on."""
    own = hiding(sessions.kw["sync_session_class"], is_hidden)
    filter_ = RowFilter(mixin, condition)

    def listen(state: sa.orm.ORMExecuteState) -> None:
        if "closed" not in state.execution_options:
            filter_.apply(state)

    sa.event.listen(own, "do_orm_execute", listen)
    sessions.configure(sync_session_class=own)


@pytest.fixture(params=["closed first", "secret first"])
def sessions(
    engine_and_sessions: tuple[AsyncEngine, Sessions], request: pytest.FixtureRequest
) -> Sessions:
    """Sessions with two filters, installed one after the other in either order."""
    _, sessions = engine_and_sessions
    filters = [(ClosedMixin, is_open, is_closed), (SecretMixin, is_public, is_secret)]
    for mixin, condition, is_hidden in (
        filters if request.param == "closed first" else reversed(filters)
    ):
        install(sessions, mixin, condition, is_hidden)
    return sessions


ALIAS = aliased(Call)

QUERIES: dict[str, Callable[[], sa.Executable]] = {
    "class": lambda: select(Call.id),
    "alias": lambda: select(ALIAS.id),
    "join": lambda: select(Call.id).join(Tenant),
    "subquery": lambda: select(select(Call).subquery().c.id),
    "CTE": lambda: select(select(Call.id).cte().c.id),
    "table": lambda: select(CALLS.c.id),
    "join of tables": lambda: select(CALLS.c.id).join(Base.metadata.tables["tenants"]),
    "subquery of a table": lambda: select(select(CALLS).subquery().c.id),
    "class, for an IN of a table": lambda: select(Call.id).where(
        Call.id.in_(select(CALLS.c.id))
    ),
}


async def test_every_filter_narrows_every_query(sessions: Sessions) -> None:
    found = {}
    async with sessions() as session:
        for way, query in QUERIES.items():
            found[way] = [row[0] for row in await session.execute(query())]
    assert found == {way: [1] for way in QUERIES}


async def test_what_no_filter_is_about_passes_unchanged(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    async with sessions() as session:
        with count_sql(engine) as statements:
            assert await session.get(Note, 1) is not None
            await session.execute(select(Base.metadata.tables["notes"]))
            await session.execute(sa.text("SELECT 1"))
            await session.execute(sa.insert(Note), [{"id": 2}, {"id": 3}])
            await session.execute(sa.update(Note).values(id=Note.id + 10))
            await session.execute(sa.delete(Note))
            assert await session.scalar(func.lower("ADA")) == "ada"
        assert statements.total == 7
        assert not any("closed" in text for text in statements.texts)


async def test_an_insert_of_rows_is_sent_as_it_is(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> None:
    _, sessions = engine_and_sessions
    install(sessions, ClosedMixin, is_open, is_closed)
    sent: list[object] = []
    sa.event.listen(
        sessions.kw["sync_session_class"],
        "do_orm_execute",
        lambda state: sent.append(state.statement),
    )
    statements = [sa.insert(Tenant), sa.insert(Base.metadata.tables["tenants"])]
    async with sessions() as session:
        for number, statement in enumerate(statements, start=3):
            await session.execute(statement, [{"id": number}])
        assert sent == statements
        assert {*await session.scalars(select(Tenant.id))} == {1, 3, 4}


WRITES: dict[str, Write] = {
    "class": lambda session: session.execute(sa.update(Call).values(seconds=9)),
    "by key": lambda session: session.execute(
        sa.update(Call), [{"id": n, "seconds": 9} for n in (1, 2, 3)]
    ),
    "table": lambda session: session.execute(sa.update(CALLS).values(seconds=9)),
    "table, by parameters": lambda session: session.execute(
        sa.update(CALLS).where(CALLS.c.id == sa.bindparam("call")),
        [{"call": n, "seconds": 9} for n in (1, 2, 3)],
    ),
}


@pytest.mark.parametrize("way", WRITES)
async def test_every_filter_narrows_every_update(
    sessions: Sessions, engine: AsyncEngine, way: str
) -> None:
    async with sessions() as session:
        await WRITES[way](session)
        await session.commit()
    async with engine.connect() as connection:
        changed = select(CALLS.c.id).where(CALLS.c.seconds == 9)
        assert (await connection.scalars(changed)).all() == [1]


@pytest.mark.parametrize("target", [Call, CALLS])
async def test_every_filter_narrows_a_delete(
    sessions: Sessions, engine: AsyncEngine, target: type[Call] | sa.Table
) -> None:
    async with sessions() as session:
        await session.execute(sa.delete(target))
        await session.commit()
    async with engine.connect() as connection:
        left = select(CALLS.c.id).order_by(CALLS.c.id)
        assert (await connection.scalars(left)).all() == [2, 3]


@pytest.mark.parametrize("target", [Call, CALLS])
async def test_every_filter_narrows_what_is_copied(
    sessions: Sessions, engine: AsyncEngine, target: type[Call] | sa.Table
) -> None:
    source = ALIAS if target is Call else CALLS.alias().c
    query = select(
        source.id + 10, source.tenant_id, source.seconds, source.closed, source.secret
    )
    names = ["id", "tenant_id", "seconds", "closed", "secret"]
    async with sessions() as session:
        await session.execute(sa.insert(target).from_select(names, query))
        await session.commit()
    async with engine.connect() as connection:
        copies = select(CALLS.c.id).where(CALLS.c.id > 10)
        assert (await connection.scalars(copies)).all() == [11]


async def test_a_bulk_update_by_key_leaves_the_instances_as_they_are(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        call = await session.get_one(Call, 1)
        await session.execute(sa.update(Call), [{"id": 1, "seconds": 9}])
        assert call.seconds == 0
        await session.refresh(call)
        assert call.seconds == 9


async def test_a_bulk_update_by_key_of_another_model_changes_its_instances(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        note = await session.get_one(Note, 1)
        await session.execute(sa.update(Note), [{"id": 1, "text": "new"}])
        assert note.text == "new"


async def test_what_the_session_holds_is_hidden_unless_it_was_asked_for(
    sessions: Sessions,
) -> None:
    options = {"closed": "too"}
    async with sessions() as session:
        call = await session.get(Call, 2, execution_options=options)
        assert call is not None
        assert await session.get(Call, 2) is None
        assert await session.get(Call, 2, execution_options=options) is call
        with pytest.raises(InvalidRequestError, match="Could not refresh"):
            await session.refresh(call)


async def test_a_collection_holds_only_what_every_filter_leaves(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        query = select(Tenant).options(selectinload(Tenant.calls))
        tenants = (await session.scalars(query)).all()
        assert [[call.id for call in tenant.calls] for tenant in tenants] == [[1]]


async def test_an_instance_can_be_pickled_with_the_filters_it_was_loaded_under(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        assert b"Call" in pickle.dumps(await session.get_one(Call, 1))


async def test_the_models_of_a_mixin_are_found_by_their_tables() -> None:
    assert models_of(SecretMixin) == {CALLS: Call}
    tables = Base.metadata.tables
    assert models_of(ClosedMixin) == {
        CALLS: Call,
        tables["tenants"]: Tenant,
        tables["invoices"]: Invoice,
    }


async def test_a_join_that_was_made_with_classes_is_refused(
    sessions: Sessions,
) -> None:
    query = select(func.count()).select_from(join(Tenant, Call))
    async with sessions() as session:
        with pytest.raises(InvalidRequestError, match=r"use Select\.join"):
            await session.scalar(query)
        assert await session.scalar(query, execution_options={"closed": "too"}) == 3


@pytest.mark.parametrize("make", [sa.alias, sa.tablesample])
async def test_an_alias_that_was_not_made_as_one_of_a_class_is_refused(
    sessions: Sessions, make: Callable[..., sa.FromClause]
) -> None:
    copy = make(Call, **({"sampling": 100} if make is sa.tablesample else {}))
    async with sessions() as session:
        for query in (
            select(copy),
            select(select(copy.c.id).subquery()),
            select(Tenant.id).join(copy, copy.c.tenant_id == Tenant.id),
            select(Tenant.id).where(select(copy.c.id).exists()),
        ):
            with pytest.raises(InvalidRequestError, match="aliased"):
                await session.execute(query)


FULL_JOINS: dict[str, Callable[[], sa.Select[Any]]] = {
    "of a class": lambda: select(Call.id).join(Tenant, full=True),
    "to an alias": lambda: select(ALIAS.id).join_from(
        Tenant, ALIAS, ALIAS.tenant_id == Tenant.id, full=True
    ),
    "outer": lambda: select(Tenant.id).outerjoin(Call, full=True),
    "to a subquery": lambda: select(Call.id).join(
        it := select(Note.id).subquery(), it.c.id == Call.id, full=True
    ),
    "in a subquery": lambda: select(
        select(Call.id).join(Tenant, full=True).subquery().c.id
    ),
}


@pytest.mark.parametrize("way", FULL_JOINS)
async def test_a_full_join_of_classes_which_would_show_hidden_rows_is_refused(
    sessions: Sessions, way: str
) -> None:
    query = FULL_JOINS[way]()
    async with sessions() as session:
        with pytest.raises(InvalidRequestError, match="not in full"):
            await session.execute(query)
        found = await session.scalars(query, execution_options={"closed": "too"})
        assert 2 in found.all()


async def test_every_filter_narrows_what_a_write_reads(sessions: Sessions) -> None:
    found = []
    async with sessions() as session:
        for n in (1, 2, 3):
            number = select(ALIAS.id).where(ALIAS.id == n).scalar_subquery()
            note = sa.insert(Note).values(id=n + 1, text=func.coalesce(number, 0))
            await session.execute(note)
            beside = CALLS.alias().c
            update = sa.update(CALLS).where(
                CALLS.c.id == 1, beside.id == CALLS.c.id + n - 1
            )
            await session.execute(update.values(seconds=beside.id))
            found.append(await session.scalar(select(CALLS.c.seconds)))
        texts = await session.scalars(select(Note.text).order_by(Note.id))
    assert texts.all() == ["", "1", "0", "0"]
    assert found == [1, 1, 1]


async def test_a_statement_that_was_narrowed_by_hand_is_narrowed_further(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> None:
    _, sessions = engine_and_sessions
    install(sessions, ClosedMixin, is_open, is_closed)
    async with sessions() as session:
        for query in (select(CALLS.c.id), select(select(CALLS).subquery().c.id)):
            public = narrow_tables(query, {CALLS}, is_public)
            assert (await session.scalars(public)).all() == [1]


def test_a_model_of_joined_tables_is_narrowed_by_its_class() -> None:
    class Local(DeclarativeBase):
        """A base of its own."""

    class Line(ClosedMixin, Local):
        __tablename__ = "lines"

        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[str] = mapped_column(default="")

    class Trunk(Line):
        __tablename__ = "trunks"

        id: Mapped[int] = mapped_column(sa.ForeignKey("lines.id"), primary_key=True)

    class Filtered(Session):
        """A class for the listener alone."""

    sa.event.listen(Filtered, "do_orm_execute", RowFilter(ClosedMixin, is_open).apply)
    engine = sa.create_engine("sqlite://")
    Local.metadata.create_all(engine)
    with Filtered(engine) as session:
        session.add_all([Trunk(id=1), Trunk(id=2, closed=True)])
        session.flush()
        flat = aliased(Trunk, flat=True)
        queries: list[sa.Select[Any]] = [
            select(Trunk.id),
            select(flat.id),
            select(aliased(Trunk).id),
        ]
        everything: list[sa.Executable] = [*queries, sa.union(*queries)]
        for query in everything:
            assert session.scalars(query).all() == [1]
        tables = Local.metadata.tables
        assert session.scalars(select(tables["lines"].c.id)).all() == [1]
        assert session.scalars(select(tables["trunks"].c.id)).all() == [1, 2]
        update = sa.update(Line).where(Line.id.in_(queries[1])).values(number="1")
        assert session.scalars(update.returning(Line.id)).all() == [1]
    engine.dispose()


async def test_a_listener_may_copy_a_statement_that_was_narrowed(
    sessions: Sessions,
) -> None:
    def copy(state: ORMExecuteState) -> None:
        whole: Any = state.statement
        state.statement = visitors.cloned_traverse(whole, {}, {})

    sa.event.listen(sessions.kw["sync_session_class"], "do_orm_execute", copy)
    async with sessions() as session:
        assert (await session.scalars(select(Call.id))).all() == [1]
        assert (await session.scalars(select(Call))).one().id == 1


def test_a_model_that_only_its_registry_knows_is_forgotten() -> None:
    class Local(DeclarativeBase):
        """A base that outlives its model."""

    def define() -> type:
        class Voicemail(ClosedMixin, Local):
            """A model that a function defines."""

            __tablename__ = "voicemails"

            id: Mapped[int] = mapped_column(primary_key=True)

        return Voicemail

    model = define()
    table = Local.metadata.tables["voicemails"]
    gc.collect()
    assert models_of(ClosedMixin)[table] is model
    del model
    gc.collect()
    assert table not in models_of(ClosedMixin)


LIGHT = sa.table("Calls", sa.column("id"), schema="main")
COPY = CALLS.to_metadata(sa.MetaData())


@pytest.mark.parametrize("double", [LIGHT, COPY], ids=["sa.table", "to_metadata"])
async def test_another_table_of_the_same_name_is_refused(
    sessions: Sessions, double: sa.TableClause
) -> None:
    other = aliased(double)
    statements: list[sa.Executable] = [
        select(double.c.id),
        select(func.count()).select_from(double),
        select(other.c.id),
        select(Tenant.id).where(Tenant.id.in_(select(double.c.id))),
        select(Tenant).join(double, double.c.id == Tenant.id),
        func.max(double.c.id),
        sa.update(double).values(id=9),
        sa.delete(double),
        sa.update(Tenant).where(Tenant.id == double.c.id).values(id=9),
        sa.update(Note).where(Note.id == other.c.id).values(id=9),
        sa.insert(Note).from_select(["id"], select(double.c.id)),
    ]
    async with sessions() as session:
        for statement in statements:
            with pytest.raises(InvalidRequestError, match="the model's table"):
                await session.execute(statement)
        options = {"closed": "too"}
        assert await session.scalar(func.max(COPY.c.id), execution_options=options) == 3


async def test_a_table_of_the_same_name_with_a_model_of_its_own_is_no_double(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> None:
    class Elsewhere(DeclarativeBase):
        """The tables of another database, say."""

    class OtherCall(Elsewhere):
        __tablename__ = CALLS.name
        id: Mapped[int] = mapped_column(primary_key=True)

    table = OtherCall.__table__
    assert not shares_name(table, [CALLS])
    async with engine_and_sessions[1]() as session:
        assert await session.scalar(select(func.count(table.c.id))) == 3


async def test_a_table_of_another_schema_is_not_taken_for_the_models(
    sessions: Sessions,
) -> None:
    elsewhere = CALLS.to_metadata(sa.MetaData(), schema="archive")
    async with sessions() as session:
        with pytest.raises(sa.exc.DBAPIError):  # the database has no such schema
            await session.execute(select(elsewhere.c.id))


async def test_a_function_that_is_executed_is_narrowed(sessions: Sessions) -> None:
    async with sessions() as session:
        for function in (func.max(Call.id), func.max(CALLS.c.id), func.max(ALIAS.id)):
            assert await session.scalar(function) == 1


@pytest.mark.backends("postgresql")
async def test_a_write_within_a_statement_is_refused(sessions: Sessions) -> None:
    writes: list[Any] = [
        sa.update(Call).values(seconds=9).returning(Call.id),
        sa.delete(CALLS).returning(CALLS.c.id),
        sa.update(Note).where(Note.id == Call.id).values(text="").returning(Call.id),
    ]
    async with sessions() as session:
        for write in writes:
            part = write.cte()
            for query in (select(part.c.id), select(Tenant, part.c.id)):
                with pytest.raises(InvalidRequestError, match="nest no write"):
                    await session.execute(query)
        note = sa.insert(Note).values(id=7).returning(Note.id).cte()
        assert await session.scalar(select(note.c.id)) == 7


@pytest.mark.parametrize("text", [sa.text, sa.literal_column])
async def test_text_with_an_or_is_refused_since_the_condition_would_come_behind_it(
    sessions: Sessions, text: Callable[[str], Any]
) -> None:
    other = text("1 = 1 OR 1 = 0")
    statements: list[Any] = [
        select(Call.id).where(other),
        select(CALLS.c.id).where(other),
        select(Call.id).where(Call.id > 0, other),
        select(Note.id).where(Note.id.in_(select(Call.id).where(other))),
        sa.update(Call).where(other).values(seconds=9),
        sa.update(CALLS).where(other).values(seconds=9),
        sa.delete(CALLS).where(other),
    ]
    async with sessions() as session:
        for statement in statements:
            with pytest.raises(InvalidRequestError, match="or_"):
                await session.execute(statement)
        assert await session.scalar(select(Call.id).where(text("1 = 1"))) == 1
        assert (
            await session.scalar(select(func.count(Note.id)).where(other)) is not None
        )


OUT_OF_REACH: dict[str, Callable[[], sa.Executable]] = {
    "text": lambda: sa.text("SELECT count(*) FROM calls"),
    "a literal column": lambda: select(
        sa.literal_column("(SELECT count(*) FROM calls)")
    ),
    "a suffix": lambda: select(sa.literal(3)).suffix_with(
        "INTERSECT SELECT count(*) FROM calls"
    ),
    "a class without the mixin": lambda: select(func.count()).select_from(PlainCall),
    "a table beside a class": lambda: select(func.count(CALLS.c.id)).where(
        CALLS.c.tenant_id.in_(select(Tenant.id))
    ),
}


async def test_what_a_filter_cannot_reach_is_what_the_module_says(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        counts = {way: await session.scalar(q()) for way, q in OUT_OF_REACH.items()}
        assert counts == dict.fromkeys(OUT_OF_REACH, 3)
        bundle: Bundle[Any] = Bundle("calls", func.count(CALLS.c.id))
        assert (await session.execute(select(bundle))).one() == ((3,),)
        number = select(func.count(Call.id)).scalar_subquery()
        query = select(Counted).options(with_expression(Counted.calls, number))
        assert (await session.scalars(query)).one().calls == 3
        connection = await session.connection()
        keys = (await connection.scalars(select(CALLS.c.id))).all()
        assert len(keys) == 3
        rows = [{"id": key, "seconds": 9} for key in keys]
        await session.run_sync(lambda it: it.bulk_update_mappings(Call, rows))
        changed = await connection.scalars(select(CALLS.c.seconds))
        assert changed.all() == [9, 9, 9]


async def test_a_parameter_replaces_one_of_the_condition_that_has_its_name(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> None:
    _, sessions = engine_and_sessions
    hidden: sa.BindParameter[bool] = sa.bindparam("hidden", value=False)
    install(sessions, ClosedMixin, lambda row: row.closed == hidden, is_closed)
    async with sessions() as session:
        assert (await session.scalars(select(Tenant.id))).all() == [1]
        given = await session.scalars(select(Tenant.id), {"hidden": True})
        assert given.all() == [2]


async def test_a_filter_costs_no_statement(
    engine_and_sessions: tuple[AsyncEngine, Sessions], proof: Proof
) -> None:
    engine, sessions = engine_and_sessions
    install(sessions, ClosedMixin, is_open, is_closed)
    async with sessions() as session:
        for operation, statement in {
            "query": select(Call),
            "query of a table": select(CALLS),
            "update": sa.update(Call).values(seconds=1),
        }.items():
            with count_sql(engine) as statements:
                await session.execute(statement)
            assert statements.total == 1
            proof.cost(operation, statements=1)


# The naive version


@pytest.fixture
async def naive(
    engine_and_sessions: tuple[AsyncEngine, Sessions],
) -> AsyncIterator[AsyncSession]:
    """A session of which the queries are filtered, as the manual shows."""

    class Filtered(Session):
        """A class for the listener alone."""

    filter_queries(Filtered, ClosedMixin, is_open)
    engine, _ = engine_and_sessions
    async with AsyncSession(engine, sync_session_class=Filtered) as session:
        assert 2 not in (await session.scalars(select(Call.id))).all()
        yield session


async def test_the_naive_filter_lets_an_update_and_a_delete_through(
    naive: AsyncSession, proof: Proof
) -> None:
    changed = await naive.scalars(sa.update(Call).values(seconds=9).returning(Call.id))
    assert 2 in changed.all()
    gone = await naive.scalars(sa.delete(Call).returning(Call.id))
    assert 2 in gone.all()
    proof.breaks("A bulk UPDATE or DELETE", "reaches hidden rows")


async def test_the_naive_filter_does_not_see_a_table(
    naive: AsyncSession, proof: Proof
) -> None:
    assert 2 in (await naive.scalars(select(CALLS.c.id))).all()
    proof.breaks("A query of the model's table", "returns hidden rows")


async def test_the_naive_filter_gives_out_what_the_session_holds(
    naive: AsyncSession, proof: Proof
) -> None:
    call = await naive.get_one(Call, 1)
    await naive.execute(sa.update(Call).values(closed=True))
    assert await naive.get(Call, 1) is call
    await naive.refresh(call)
    proof.breaks("`session.get` and refresh of a row that is now hidden", "return it")
