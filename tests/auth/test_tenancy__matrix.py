"""Each way to read or write a row, for each of two tenants, for nobody and for all."""

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, InvalidRequestError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    Bundle,
    Session,
    aliased,
    contains_eager,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    selectinload,
    subqueryload,
)
from sqlalchemy.orm.exc import ObjectDeletedError
from sqlalchemy.orm.interfaces import ORMOption

from snippets.auth.tenancy import bypass_tenancy, set_tenant
from snippets.auth.tenant_boundary import BoundaryError
from tests.support.tenants import (
    A,
    B,
    Base,
    Call,
    Extension,
    Tenants,
    User,
    in_each_scope,
    tenants,
)

Read: TypeAlias = Callable[[], sa.Executable]
Ask: TypeAlias = Callable[[AsyncSession], Awaitable[object]]

SEEN: dict[str, set[str] | str] = {
    "A": {"a"},
    "B": {"b"},
    "all": {"a", "b"},
    "nobody": "refused",
}
"""What every way to the rows must show in each scope."""

USERS = Base.metadata.tables["users"]
EXTENSIONS = Base.metadata.tables["extensions"]
CALLS = Base.metadata.tables["calls"]


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Tenants]:
    """Two tenants with a row of each kind."""
    async with tenants(database_url) as platform:
        yield platform


def owner(row: object) -> str:
    """Return whose a row, its key or its name is."""
    if isinstance(row, sa.Row):
        return owner(row[0])
    if isinstance(row, User | Extension):
        return owner(row.id)
    return "ab"[row - 1] if isinstance(row, int) else str(row)


def owners(rows: Iterable[object]) -> set[str]:
    """Return whose the rows are."""
    return {owner(row) for row in rows}


def recursive() -> sa.Select[Any]:
    """Walk from user to user, as one walks a tree."""
    walk = select(User.id).where(User.id <= 1).cte("walk", recursive=True)
    step = select(User.id).join(walk, User.id > walk.c.id)
    return select(walk.union(select(ALIAS.id), step).c.id)


ALIAS, OTHER, EXTENSION = aliased(User), aliased(User), aliased(Extension)
SUBQUERY = select(User).subquery()
CTE = select(User).cte()
TABLE_ALIAS = USERS.alias()

QUERIES: dict[str, Read] = {
    "class": lambda: select(User),
    "ordered and limited": lambda: select(User).order_by(User.id).limit(9),
    "column": lambda: select(User.id),
    "expression": lambda: select(User.name + ""),
    "bundle": lambda: select(Bundle("user", User.id, single_entity=True)),
    "distinct": lambda: select(User.id).distinct(),
    "grouped": lambda: select(User.id, func.count()).group_by(User.id),
    "window": lambda: select(User.id, func.count().over()),
    "for update": lambda: select(User).with_for_update(),
    "alias": lambda: select(ALIAS),
    "two aliases": lambda: select(ALIAS).join(OTHER, ALIAS.id == OTHER.id),
    "every pair": lambda: select(ALIAS.id).join(OTHER, sa.true()),
    "every other pair": lambda: (
        select(OTHER.id).select_from(ALIAS).join(OTHER, sa.true())
    ),
    "a class and its alias": lambda: (
        select(ALIAS).select_from(User).join(ALIAS, sa.true())
    ),
    "subquery": lambda: select(SUBQUERY.c.id),
    "alias of a subquery": lambda: select(aliased(User, SUBQUERY)),
    "scalar subquery": lambda: select(
        select(ALIAS.id).where(ALIAS.id == User.id).scalar_subquery()
    ).select_from(User),
    "lateral": lambda: select(
        select(ALIAS.id).where(ALIAS.id == User.id).correlate(User).scalar_subquery()
    ).select_from(User),
    "CTE": lambda: select(CTE.c.id),
    "alias of a CTE": lambda: select(aliased(User, CTE)),
    "recursive CTE": recursive,
    "IN": lambda: select(User.id).where(User.id.in_(select(ALIAS.id))),
    "EXISTS": lambda: select(User.id).where(sa.exists().where(ALIAS.id == User.id)),
    "union": lambda: sa.union(select(User.id), select(ALIAS.id)),
    "instances of a union": lambda: select(User).from_statement(
        sa.union(select(User), select(User))
    ),
    "subquery of a union": lambda: select(
        sa.union_all(select(User.id), select(ALIAS.id)).subquery().c.id
    ),
    "joined along a relationship": lambda: select(Extension).join(Extension.user),
    "joined to a collection": lambda: (
        select(Extension).select_from(User).join(User.extensions)
    ),
    "joined to an alias": lambda: (
        select(EXTENSION).select_from(User).join(User.extensions.of_type(EXTENSION))
    ),
    "has": lambda: select(Extension).where(Extension.user.has(User.name != "")),
    "any": lambda: select(User).where(User.extensions.any(Extension.number != "")),
    "joined to a class without tenant": lambda: select(User).join(
        Call, Call.user_id == User.id
    ),
    "joined from a class without tenant": lambda: (
        select(User).select_from(Call).join(Call.user)
    ),
    "table": lambda: select(USERS),
    "column of a table": lambda: select(USERS.c.id),
    "table for update": lambda: select(USERS).with_for_update(),
    "alias of a table": lambda: select(TABLE_ALIAS.c.id),
    "subquery of a table": lambda: select(select(USERS).subquery().c.id),
    "CTE of a table": lambda: select(select(USERS.c.id).cte("ids").c.id),
    "joined tables": lambda: select(EXTENSIONS.c.id).join(
        USERS, USERS.c.id == EXTENSIONS.c.user_id
    ),
    "every pair of tables": lambda: select(USERS.c.id).join(TABLE_ALIAS, sa.true()),
    "tables in IN": lambda: select(USERS.c.id).where(
        USERS.c.id.in_(select(TABLE_ALIAS.c.id))
    ),
    "tables in EXISTS": lambda: select(USERS.c.id).where(
        sa.exists().where(TABLE_ALIAS.c.id == USERS.c.id)
    ),
    "union of tables": lambda: sa.union(select(USERS.c.id), select(TABLE_ALIAS.c.id)),
    "joined to a table without tenant": lambda: select(USERS.c.id).join(
        CALLS, CALLS.c.user_id == USERS.c.id
    ),
}


async def test_a_query_sees_the_rows_of_its_tenant_alone(platform: Tenants) -> None:
    seen = {}
    for way, query in QUERIES.items():

        async def ask(session: AsyncSession, query: Read = query) -> set[str]:
            return owners((await session.execute(query())).unique().all())

        seen[way] = await in_each_scope(platform.sessions, ask)
    assert seen == dict.fromkeys(QUERIES, SEEN)


TO_THE_OTHER: dict[str, Read] = {
    "relationship": lambda: select(User.name).join(User.forwarded),
    "from the reference": lambda: (
        select(User.name).select_from(Extension).join(Extension.forwarded_to)
    ),
    "condition": lambda: select(User.name).join(
        Extension, Extension.forward_id == User.id
    ),
    "has": lambda: select(Extension.id).where(Extension.forwarded_to.has()),
    "any": lambda: select(User.id).where(User.forwarded.any()),
    "tables": lambda: select(USERS.c.name).join(
        EXTENSIONS, EXTENSIONS.c.forward_id == USERS.c.id
    ),
}


async def test_a_join_does_not_lead_to_a_row_of_another_tenant(
    platform: Tenants,
) -> None:
    seen = {}
    for way, query in TO_THE_OTHER.items():

        async def ask(session: AsyncSession, query: Read = query) -> set[str]:
            return owners((await session.execute(query())).all())

        seen[way] = await in_each_scope(platform.sessions, ask)
    assert seen == dict.fromkeys(TO_THE_OTHER, SEEN | {"A": set(), "B": set()})


async def test_an_outer_join_keeps_the_row_and_shows_nothing_of_the_other(
    platform: Tenants,
) -> None:
    by_class = select(Extension.id, User.name).outerjoin(Extension.forwarded_to)
    by_table = select(EXTENSIONS.c.id, USERS.c.name).outerjoin(
        USERS, USERS.c.id == EXTENSIONS.c.forward_id
    )
    for query in (by_class, by_table):
        async with platform.sessions() as session:
            with set_tenant(A):
                assert (await session.execute(query)).all() == [(1, None)]


NUMBERS: dict[str, Read] = {
    "class": lambda: select(func.count()).select_from(User),
    "column": lambda: select(func.count(User.id)),
    "subquery": lambda: select(func.count()).select_from(select(User).subquery()),
    "alias": lambda: select(func.count()).select_from(ALIAS),
    "scalar subquery": lambda: select(select(func.count(User.id)).scalar_subquery()),
    "sum": lambda: select(func.sum(sa.case((User.id > 0, 1), else_=0))),
    "table": lambda: select(func.count()).select_from(USERS),
    "subquery of a table": lambda: select(func.count()).select_from(
        select(USERS.c.id).subquery()
    ),
}


async def test_a_count_counts_the_rows_of_its_tenant_alone(platform: Tenants) -> None:
    counted = {}
    for way, query in NUMBERS.items():

        async def ask(session: AsyncSession, query: Read = query) -> object:
            return await session.scalar(query())

        counted[way] = await in_each_scope(platform.sessions, ask)
    expected = {"A": 1, "B": 1, "all": 2, "nobody": "refused"}
    assert counted == dict.fromkeys(NUMBERS, expected)


EXISTENCE: dict[str, Callable[[int], sa.Executable]] = {
    "class": lambda n: select(sa.exists().where(User.id == n)),
    "query": lambda n: select(select(User).where(User.id == n).exists()),
    "alias": lambda n: select(sa.exists().where(ALIAS.id == n)),
    "table": lambda n: select(sa.exists().where(USERS.c.id == n)),
    "case": lambda n: select(
        sa.case((sa.exists().where(User.id == n), sa.true()), else_=sa.false())
    ),
}


async def test_to_a_tenant_only_its_own_rows_exist(platform: Tenants) -> None:
    found = {}
    for way, exists in EXISTENCE.items():

        async def ask(
            session: AsyncSession,
            exists: Callable[[int], sa.Executable] = exists,
        ) -> set[str]:
            return {owner(n) for n in (1, 2) if await session.scalar(exists(n))}

        found[way] = await in_each_scope(platform.sessions, ask)
    assert found == dict.fromkeys(EXISTENCE, SEEN)


async def _get_one(session: AsyncSession, n: int) -> User | None:
    try:
        return await session.get_one(User, n)
    except NoResultFound:
        return None


GETS: dict[str, Callable[[AsyncSession, int], Awaitable[User | None]]] = {
    "get": lambda session, n: session.get(User, n),
    "get, populating": lambda session, n: session.get(User, n, populate_existing=True),
    "get for update": lambda session, n: session.get(User, n, with_for_update=True),
    "get_one": _get_one,
}


@pytest.mark.parametrize("held", ["nothing", "everything", "without the tenant"])
async def test_get_returns_the_rows_of_its_tenant_alone_whatever_the_session_holds(
    platform: Tenants, held: str
) -> None:
    seen = {}
    for way, get in GETS.items():

        async def ask(
            session: AsyncSession,
            get: Callable[[AsyncSession, int], Awaitable[User | None]] = get,
        ) -> set[str]:
            with bypass_tenancy():
                query = select(User).where(sa.literal(held != "nothing"))
                if held == "without the tenant":
                    query = query.options(load_only(User.name))
                kept = (await session.scalars(query)).all()
            found = [await get(session, n) for n in (1, 2)]
            assert len(kept) == (0 if held == "nothing" else 2)
            return owners(user for user in found if user)

        seen[way] = await in_each_scope(platform.sessions, ask)
    assert seen == dict.fromkeys(GETS, SEEN)


EAGER: dict[str, Callable[[Any], ORMOption]] = {
    "joined": joinedload,
    "selectin": selectinload,
    "subquery": subqueryload,
    "immediate": immediateload,
    "lazy": lazyload,
}


@pytest.mark.parametrize("held", ["nothing", "everything"])
async def test_a_relationship_does_not_lead_to_a_row_of_another_tenant(
    platform: Tenants, held: str
) -> None:
    everyone = (select(User), select(Extension))
    found = {}
    for way, load in EAGER.items():

        async def ask(
            session: AsyncSession, load: Callable[[Any], ORMOption] = load
        ) -> set[str]:
            with bypass_tenancy():
                kept = [(await session.scalars(query)).all() for query in everyone]
                if held == "nothing":
                    kept.clear()
                    session.expunge_all()
            one = select(Extension).options(load(Extension.forwarded_to))
            many = select(User).options(load(User.forwarded))
            users = [
                await extension.awaitable_attrs.forwarded_to
                for extension in await session.scalars(one)
            ]
            extensions = [
                extension
                for user in (await session.scalars(many)).unique()
                for extension in await user.awaitable_attrs.forwarded
            ]
            return owners(row for row in (*users, *extensions) if row)

        found[way] = await in_each_scope(platform.sessions, ask)
    assert found == dict.fromkeys(EAGER, SEEN | {"A": set(), "B": set()})


async def test_a_relationship_through_a_tenants_table_leads_to_no_other_tenants_row(
    platform: Tenants,
) -> None:
    found = {}
    for way, load in EAGER.items():

        async def ask(
            session: AsyncSession, load: Callable[[Any], ORMOption] = load
        ) -> set[str]:
            users = await session.scalars(select(User).options(load(User.reached)))
            reached = [await user.awaitable_attrs.reached for user in users.unique()]
            return owners(other for others in reached for other in others)

        found[way] = await in_each_scope(platform.sessions, ask)
    assert found == dict.fromkeys(EAGER, SEEN | {"A": set(), "B": set()})


async def test_a_row_without_tenant_leads_to_the_rows_of_the_tenant_alone(
    platform: Tenants,
) -> None:
    found = {}
    for way, load in EAGER.items():

        async def ask(
            session: AsyncSession, load: Callable[[Any], ORMOption] = load
        ) -> set[str]:
            calls = await session.scalars(select(Call).options(load(Call.user)))
            users = [await call.awaitable_attrs.user for call in calls.unique()]
            return owners(user for user in users if user)

        found[way] = await in_each_scope(platform.sessions, ask)
    assert found == dict.fromkeys(EAGER, SEEN)


async def test_a_collection_filled_from_a_join_has_nothing_of_another_tenant(
    platform: Tenants,
) -> None:
    async def ask(session: AsyncSession) -> set[str]:
        query = select(User).join(User.extensions)
        query = query.options(contains_eager(User.extensions))
        users = (await session.scalars(query)).unique()
        return owners(one for user in users for one in user.extensions)

    assert await in_each_scope(platform.sessions, ask) == SEEN


async def test_a_write_only_collection_has_nothing_of_another_tenant(
    platform: Tenants,
) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            user = await session.get_one(User, 1)
            assert not (await session.scalars(user.written.select())).all()
        with bypass_tenancy():
            assert owners(await session.scalars(user.written.select())) == {"b"}


async def test_the_legacy_query_and_a_stream_see_the_rows_of_their_tenant_alone(
    platform: Tenants,
) -> None:
    async def ask(session: AsyncSession) -> set[str]:
        return owners(await session.run_sync(lambda s: s.query(User).all()))

    async def stream(session: AsyncSession) -> set[str]:
        rows = await session.stream_scalars(select(User))
        return owners([user async for user in rows])

    assert await in_each_scope(platform.sessions, ask) == SEEN
    assert await in_each_scope(platform.sessions, stream) == SEEN


async def test_what_was_loaded_for_another_tenant_is_neither_refreshed_nor_completed(
    platform: Tenants,
) -> None:
    async with platform.sessions() as session:
        with bypass_tenancy():
            other = await session.get_one(User, 2)
        with set_tenant(A):
            with pytest.raises(InvalidRequestError, match="Could not refresh"):
                await session.refresh(other)
            session.expire(other)
            with pytest.raises(ObjectDeletedError):
                await other.awaitable_attrs.name


async def test_a_row_loaded_for_a_tenant_can_be_pickled(platform: Tenants) -> None:
    async with platform.sessions() as session:
        with set_tenant(A):
            user = await session.get_one(
                User, 1, options=[selectinload(User.forwarded)]
            )
        assert b"forwarded" in pickle.dumps(user)


def changing(target: type[User] | sa.Table) -> sa.Update:
    """Return an UPDATE of a class or a table."""
    return sa.update(target).values(desk="changed")


def sending(statement: sa.Executable, **options: object) -> Ask:
    """Return a way to write: send the statement."""

    async def write(session: AsyncSession) -> object:
        return await session.execute(statement, execution_options=options)

    return write


async def _by_key(session: AsyncSession) -> object:
    rows = [{"id": n, "desk": "changed"} for n in (1, 2)]
    return await session.execute(sa.update(User), rows)


UPDATES: dict[str, Ask] = {
    "class": sending(changing(User)),
    "class, fetched": sending(changing(User), synchronize_session="fetch"),
    "class, evaluated": sending(changing(User), synchronize_session="evaluate"),
    "class, unsynchronised": sending(changing(User), synchronize_session=False),
    "class, returning": sending(changing(User).returning(User)),
    "class, IN": sending(changing(User).where(User.id.in_(select(ALIAS.id)))),
    "by key": _by_key,
    "table": sending(changing(USERS)),
    "table, returning": sending(changing(USERS).returning(USERS.c.id)),
    "table, IN": sending(
        changing(USERS).where(USERS.c.id.in_(select(TABLE_ALIAS.c.id)))
    ),
    "table, FROM": sending(changing(USERS).where(TABLE_ALIAS.c.id == USERS.c.id)),
}


async def test_an_update_changes_the_rows_of_its_tenant_alone(
    platform: Tenants,
) -> None:
    changed = {}
    for way, update in UPDATES.items():

        async def ask(session: AsyncSession, update: Ask = update) -> set[str]:
            await update(session)
            with bypass_tenancy():
                query = select(User.id).where(User.desk == "changed")
                return owners(await session.scalars(query))

        changed[way] = await in_each_scope(platform.sessions, ask)
    assert changed == dict.fromkeys(UPDATES, SEEN)


async def test_an_update_by_a_subquery_sees_no_row_of_another_tenant(
    platform: Tenants,
) -> None:
    greatest = select(func.max(ALIAS.name)).scalar_subquery()
    async with platform.sessions() as session:
        with set_tenant(A):
            await session.execute(sa.update(User).values(desk=greatest))
            assert await session.scalar(select(User.desk)) == "a"


async def _unit_of_work(session: AsyncSession) -> None:
    for extension in (await session.scalars(select(Extension))).all():
        await session.delete(extension)
    await session.flush()


DELETES: dict[str, Ask] = {
    "class": sending(sa.delete(Extension)),
    "class, fetched": sending(sa.delete(Extension), synchronize_session="fetch"),
    "class, unsynchronised": sending(sa.delete(Extension), synchronize_session=False),
    "class, returning": sending(sa.delete(Extension).returning(Extension.id)),
    "class, IN": sending(
        sa.delete(Extension).where(Extension.user_id.in_(select(User.id)))
    ),
    "table": sending(sa.delete(EXTENSIONS)),
    "table, returning": sending(sa.delete(EXTENSIONS).returning(EXTENSIONS.c.id)),
    "unit of work": _unit_of_work,
}


async def test_a_delete_removes_the_rows_of_its_tenant_alone(
    platform: Tenants,
) -> None:
    removed = {}
    for way, delete in DELETES.items():

        async def ask(session: AsyncSession, delete: Ask = delete) -> set[str]:
            await delete(session)
            with bypass_tenancy():
                left = owners(await session.scalars(select(Extension.id)))
            return {"a", "b"} - left

        removed[way] = await in_each_scope(platform.sessions, ask)
    assert removed == dict.fromkeys(DELETES, SEEN)


NEW: list[dict[str, object]] = [{"id": 8, "name": "x"}, {"id": 9, "name": "y"}]


async def _add(session: AsyncSession) -> None:
    session.add_all([User(id=8, name="x"), User(id=9, name="y")])
    await session.flush()


async def _bulk(target: type[User] | sa.Table, session: AsyncSession) -> object:
    return await session.execute(sa.insert(target), NEW)


async def _merge(session: AsyncSession) -> None:
    await session.merge(User(id=8, name="x"))
    await session.merge(User(id=9, name="y"))
    await session.flush()


INSERTS: dict[str, Ask] = {
    "unit of work": _add,
    "merge": _merge,
    "bulk, class": partial(_bulk, User),
    "bulk, table": partial(_bulk, USERS),
    "rows, class": sending(sa.insert(User).values(NEW)),
    "rows, table": sending(sa.insert(USERS).values(NEW)),
    "from a query": sending(
        sa.insert(User).from_select(
            ["id", "name"], select(ALIAS.id + 7, ALIAS.name + "+")
        )
    ),
    "from a table": sending(
        sa.insert(USERS).from_select(
            ["id", "name"], select(TABLE_ALIAS.c.id + 7, TABLE_ALIAS.c.name + "+")
        )
    ),
}


async def test_what_an_insert_does_not_say_is_its_tenant(platform: Tenants) -> None:
    inserted = {}
    for way, insert in INSERTS.items():

        async def ask(session: AsyncSession, insert: Ask = insert) -> set[object]:
            await insert(session)
            with bypass_tenancy():
                query = select(User.tenant_id, User.id).where(User.id > 2)
                return {tenant for tenant, _ in await session.execute(query)}

        inserted[way] = await in_each_scope(platform.sessions, ask)
    # When all are meant, there is no tenant to fill in.
    expected = {"A": {A}, "B": {B}, "all": "refused", "nobody": "refused"}
    assert inserted == dict.fromkeys(INSERTS, expected)


async def test_an_insert_from_a_query_copies_the_rows_of_its_tenant_alone(
    platform: Tenants,
) -> None:
    for way in ("from a query", "from a table"):
        async with platform.sessions() as session:
            with set_tenant(A):
                await INSERTS[way](session)
                names = await session.scalars(select(User.name).order_by(User.id))
                assert names.all() == ["a", "a+"]


@pytest.mark.parametrize("target", [User, USERS])
@pytest.mark.parametrize("where", [False, True])
async def test_an_upsert_overwrites_no_row_of_another_tenant(
    platform: Tenants, target: type[User] | sa.Table, *, where: bool
) -> None:
    async def ask(session: AsyncSession) -> set[str]:
        real = platform.engine.dialect.name == "postgresql"
        insert = (postgresql.insert if real else sqlite.insert)(target)
        for n in (1, 2):
            upsert = insert.values(id=n, name="x").on_conflict_do_update(
                index_elements=["id"],
                set_={"desk": "changed"},
                where=USERS.c.desk == "" if where else None,
            )
            await session.execute(upsert)
        with bypass_tenancy():
            query = select(User.id).where(User.desk == "changed")
            return owners(await session.scalars(query))

    seen = await in_each_scope(platform.sessions, ask)
    assert seen == SEEN | {"all": "refused"}


@pytest.mark.parametrize("target", [User, USERS])
async def test_an_upsert_compares_with_the_rows_of_its_tenant_alone(
    platform: Tenants, target: type[User] | sa.Table
) -> None:
    names = ALIAS.name if target is User else TABLE_ALIAS.c.name
    greatest = select(func.max(names)).scalar_subquery()
    real = platform.engine.dialect.name == "postgresql"
    upsert = (postgresql.insert if real else sqlite.insert)(target)
    upsert = upsert.values(id=1, name="a").on_conflict_do_update(
        index_elements=["id"],
        set_={"desk": "changed"},
        where=USERS.c.name == greatest,
    )
    async with platform.sessions() as session:
        with set_tenant(A):
            await session.execute(upsert)
            assert await session.scalar(select(User.desk)) == "changed"


async def test_an_upsert_that_names_what_was_refused_is_written_to_the_table(
    platform: Tenants,
) -> None:
    real = platform.engine.dialect.name == "postgresql"

    async def upsert(session: AsyncSession, target: type[User] | sa.Table) -> None:
        insert = (postgresql.insert if real else sqlite.insert)(target)
        for n in (1, 2):
            row = insert.values(id=n, name="ab"[n - 1], desk="changed")
            new = {"desk": row.excluded.desk}
            await session.execute(
                row.on_conflict_do_update(index_elements=["id"], set_=new)
            )

    async with platform.sessions() as session:
        with set_tenant(A):
            await upsert(session, USERS)
            with pytest.raises(BoundaryError, match="beside classes"):
                await upsert(session, User)
        with bypass_tenancy():
            found = await session.execute(select(User.name, User.desk))
    assert [tuple(row) for row in sorted(found)] == [("a", "changed"), ("b", "")]


async def test_a_key_of_another_tenant_is_not_taken_over(platform: Tenants) -> None:
    async def merge(session: AsyncSession) -> None:
        await session.merge(User(id=2, name="x"))
        await session.flush()

    ways: dict[str, Ask] = {
        "merge": merge,
        "insert": sending(sa.insert(User).values(id=2, name="x")),
    }
    for write in ways.values():
        async with platform.sessions() as session:
            with set_tenant(A), pytest.raises(IntegrityError):
                await write(session)
    assert await platform.everything(select(USERS.c.name).order_by(USERS.c.id)) == [
        ("a",),
        ("b",),
    ]


async def test_a_synchronous_session_is_narrowed_too(platform: Tenants) -> None:
    def ask(session: Session) -> set[str]:
        return owners(session.scalars(select(User)))

    async with platform.sessions() as session:
        with set_tenant(B):
            assert await session.run_sync(ask) == {"b"}
