"""Each way to reach a row, for rows that are live, deleted, restored and purged."""

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import UTC
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import CompileError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    Bundle,
    Session,
    aliased,
    contains_eager,
    immediateload,
    join,
    joinedload,
    lazyload,
    outerjoin,
    raiseload,
    selectinload,
    subqueryload,
    with_parent,
)
from sqlalchemy.orm.exc import ObjectDeletedError
from sqlalchemy.orm.interfaces import ORMOption

from snippets.database.async_session import session_scope
from snippets.database.soft_delete import (
    include_deleted,
    only_deleted,
    purge,
    restore,
    soft_delete,
)
from tests.support.counters import count_sql
from tests.support.soft_delete import Base, Call, Extension, Telephony, User, telephony

Options: TypeAlias = Mapping[str, Any]
Table: TypeAlias = Any
"""A class, its alias, or the columns of a table."""

Read: TypeAlias = Callable[[], sa.Executable]
Write: TypeAlias = Callable[[AsyncSession, Options], Awaitable[object]]

STATES = {1: "live", 2: "deleted", 3: "restored", 4: "purged"}
MODES: dict[str, Options] = {
    "no option": {},
    "include_deleted": include_deleted,
    "only_deleted": only_deleted,
}
EITHER: list[Options] = [{}, include_deleted]
SEEN = {
    "no option": {"live", "restored"},
    "include_deleted": {"live", "restored", "deleted"},
    "only_deleted": {"deleted"},
}
"""What every way to the rows must show, for each option."""

USERS = Base.metadata.tables["users"]
EXTENSIONS = Base.metadata.tables["extensions"]
CALLS = Base.metadata.tables["calls"]


@pytest.fixture
async def platform(database_url: str) -> AsyncIterator[Telephony]:
    """A user in each state, and a live user who owns an extension in each state."""
    async with telephony(database_url) as platform:
        async with session_scope(platform.sessions) as session:
            session.add(User(id=9, email="owner", name="owner"))
            session.add_all(User(id=n, email=state) for n, state in STATES.items())
            await session.flush()
            session.add_all(
                Extension(id=n, user_id=9, number=state) for n, state in STATES.items()
            )
            await session.flush()
            session.add_all(Call(id=n, extension_id=n) for n in (1, 2, 3))
            for model in (User, Extension):
                for n in (2, 3, 4):
                    assert await soft_delete(session, model, n)
                assert await restore(session, model, 3)
                assert await purge(session, model, model.id == 4) == 1
        yield platform


def state(row: object) -> str:
    """Return the state that a user, an extension, its number or its name stands for."""
    if isinstance(row, sa.Row):
        return state(row[0])
    if isinstance(row, User):
        return row.email
    if isinstance(row, Extension):
        return row.number
    return STATES.get(row, "owner") if isinstance(row, int) else str(row)


def states(rows: Iterable[object]) -> set[str]:
    """Return the states of all rows but of the live user who owns the extensions."""
    return {state(row) for row in rows} - {"owner"}


def recursive() -> sa.Select[Any]:
    """Walk from number to number, as one walks a tree."""
    walk = select(User.id).where(User.id <= 2).cte("walk", recursive=True)
    step = select(User.id).join(walk, User.id > walk.c.id)
    return select(walk.union(step).c.id)


ALIAS, OTHER, EXTENSION = aliased(User), aliased(User), aliased(Extension)
SUBQUERY = select(User).subquery()
CTE = select(User).cte()
TABLE_SUBQUERY = select(USERS).subquery()
TABLE_ALIAS = USERS.alias()

QUERIES: dict[str, Read] = {
    "class": lambda: select(User),
    "class, ordered and limited": lambda: select(User).order_by(User.id).limit(9),
    "column": lambda: select(User.id),
    "expression": lambda: select(User.email + ""),
    "bundle": lambda: select(Bundle("user", User.id, single_entity=True)),
    "distinct": lambda: select(User.id).distinct(),
    "grouped": lambda: select(User.id, func.count()).group_by(User.id),
    "window": lambda: select(User.id, func.count().over()),
    "for update": lambda: select(User).with_for_update(),
    "alias": lambda: select(ALIAS),
    "column of an alias": lambda: select(ALIAS.id),
    "join of two aliases": lambda: select(ALIAS).join(OTHER, ALIAS.id == OTHER.id),
    "join of a class and its alias": lambda: select(User).join(
        ALIAS, ALIAS.id == User.id
    ),
    "subquery": lambda: select(SUBQUERY.c.id),
    "alias of a subquery": lambda: select(aliased(User, SUBQUERY)),
    "scalar subquery": lambda: select(
        select(ALIAS.id).where(ALIAS.id == User.id).scalar_subquery()
    ).select_from(User),
    "CTE": lambda: select(CTE.c.id),
    "alias of a CTE": lambda: select(aliased(User, CTE)),
    "recursive CTE": recursive,
    "IN": lambda: select(User.id).where(User.id.in_(select(ALIAS.id))),
    "EXISTS": lambda: select(User.id).where(sa.exists().where(ALIAS.id == User.id)),
    "union": lambda: sa.union(select(User.id), select(ALIAS.id)),
    "union, as instances": lambda: select(User).from_statement(
        sa.union(select(User), select(User))
    ),
    "subquery of a union": lambda: select(
        sa.union_all(select(User.id), select(ALIAS.id)).subquery().c.id
    ),
    "with_parent": lambda: select(Extension).where(
        with_parent(User(id=9), User.extensions)
    ),
    "compared with an instance": lambda: select(Extension).where(
        Extension.user == User(id=9)
    ),
    "table": lambda: select(USERS),
    "column of a table": lambda: select(USERS.c.id),
    "text on a table": lambda: select(sa.text("users.id")).select_from(USERS),
    "table for update": lambda: select(USERS).with_for_update(),
    "alias of a table": lambda: select(TABLE_ALIAS.c.id),
    "subquery of a table": lambda: select(TABLE_SUBQUERY.c.id),
    "CTE of a table": lambda: select(select(USERS.c.id).cte("ids").c.id),
    "join of tables": lambda: select(USERS.c.id).join(
        TABLE_ALIAS, TABLE_ALIAS.c.id == USERS.c.id
    ),
    "outer join of tables": lambda: select(USERS.c.id).outerjoin(
        EXTENSIONS, EXTENSIONS.c.user_id == USERS.c.id
    ),
    "IN, of tables": lambda: select(USERS.c.id).where(
        USERS.c.id.in_(select(TABLE_ALIAS.c.id))
    ),
    "EXISTS, of tables": lambda: select(USERS.c.id).where(
        sa.exists().where(TABLE_ALIAS.c.id == USERS.c.id)
    ),
    "union of tables": lambda: sa.union(select(USERS.c.id), select(TABLE_ALIAS.c.id)),
}


async def test_a_query_sees_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony,
) -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    async with session_scope(platform.sessions) as session:
        for way, query in QUERIES.items():
            seen[way] = {}
            for mode, options in MODES.items():
                rows = await session.execute(query(), execution_options=options)
                seen[way][mode] = states(rows.unique().all())
    assert seen == dict.fromkeys(QUERIES, SEEN)


THROUGH_THE_OWNER: dict[str, Read] = {
    "join along a relationship": lambda: select(Extension).join(Extension.user),
    "join to a collection": lambda: (
        select(Extension).select_from(User).join(User.extensions)
    ),
    "join to an alias": lambda: (
        select(EXTENSION).select_from(User).join(User.extensions.of_type(EXTENSION))
    ),
    "join without a relationship": lambda: select(Extension).join(
        User, User.id == Extension.user_id
    ),
    "has": lambda: select(Extension).where(Extension.user.has(User.name == "owner")),
    "tables": lambda: select(EXTENSIONS.c.id).join(
        USERS, USERS.c.id == EXTENSIONS.c.user_id
    ),
}


async def test_a_join_sees_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony,
) -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    async with session_scope(platform.sessions) as session:
        for way, query in THROUGH_THE_OWNER.items():
            seen[way] = {}
            for mode, options in MODES.items():
                rows = await session.execute(query(), execution_options=options)
                seen[way][mode] = states(rows.unique().all())
    # The owner is live, so that nothing at all is joined where all must be deleted.
    assert seen == dict.fromkeys(THROUGH_THE_OWNER, SEEN | {"only_deleted": set()})


async def test_an_outer_join_keeps_the_row_whose_partner_is_deleted(
    platform: Telephony,
) -> None:
    by_class = select(Call.id, Extension.number).outerjoin(Call.extension)
    by_table = select(Call.__table__.c.id, EXTENSIONS.c.number).outerjoin(EXTENSIONS)
    async with session_scope(platform.sessions) as session:
        for query in (by_class, by_table):
            rows = await session.execute(query)
            assert {tuple(row) for row in rows} == {
                (1, "live"),
                (2, None),
                (3, "restored"),
            }


NUMBERS: dict[str, Read] = {
    "count of a class": lambda: select(func.count()).select_from(User),
    "count of a column": lambda: select(func.count(User.id)),
    "count of a subquery": lambda: select(func.count()).select_from(
        select(User).subquery()
    ),
    "count of an alias": lambda: select(func.count()).select_from(ALIAS),
    "count of a table": lambda: select(func.count()).select_from(USERS),
    "count of a table's subquery": lambda: select(func.count()).select_from(
        select(USERS.c.id).subquery()
    ),
    "scalar subquery": lambda: select(select(func.count(User.id)).scalar_subquery()),
    "sum of cases": lambda: select(func.sum(sa.case((User.id > 0, 1), else_=0))),
}


async def test_a_count_counts_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony,
) -> None:
    counted: dict[str, list[object]] = {}
    async with session_scope(platform.sessions) as session:
        for way, query in NUMBERS.items():
            counted[way] = [
                await session.scalar(query(), execution_options=options)
                for options in MODES.values()
            ]
    # Two are live, and so is the owner; one is deleted, one is gone.
    assert counted == {way: [3, 4, 1] for way in NUMBERS}


EXISTENCE: dict[str, Callable[[int], sa.Executable]] = {
    "exists of a class": lambda n: select(sa.exists().where(User.id == n)),
    "exists of a query": lambda n: select(select(User).where(User.id == n).exists()),
    "exists of an alias": lambda n: select(sa.exists().where(ALIAS.id == n)),
    "exists of a table": lambda n: select(sa.exists().where(USERS.c.id == n)),
    "case": lambda n: select(
        sa.case((sa.exists().where(User.id == n), sa.true()), else_=sa.false())
    ),
    "any": lambda n: select(User.extensions.any(Extension.id == n)).where(User.id == 9),
}


async def test_a_row_exists_only_in_the_states_that_are_asked_for(
    platform: Telephony,
) -> None:
    found: dict[str, dict[str, set[str]]] = {}
    ways = [way for way in EXISTENCE if way != "any"]
    async with session_scope(platform.sessions) as session:
        for way, exists in EXISTENCE.items():
            found[way] = {}
            for mode, options in MODES.items():
                found[way][mode] = {
                    name
                    for n, name in STATES.items()
                    if await session.scalar(exists(n), execution_options=options)
                }
    assert found.pop("any") == SEEN | {"only_deleted": set()}  # the owner is live
    assert found == dict.fromkeys(ways, SEEN)


async def _get(session: AsyncSession, n: int, options: Options) -> object:
    return await session.get(User, n, execution_options=options)


async def _get_with_populate_existing(
    session: AsyncSession, n: int, options: Options
) -> object:
    return await session.get(User, n, populate_existing=True, execution_options=options)


async def _get_for_update(session: AsyncSession, n: int, options: Options) -> object:
    return await session.get(User, n, with_for_update=True, execution_options=options)


async def _get_one(session: AsyncSession, n: int, options: Options) -> object:
    try:
        return await session.get_one(User, n, execution_options=options)
    except sa.exc.NoResultFound:
        return None


GETS = [_get, _get_with_populate_existing, _get_for_update, _get_one]


@pytest.mark.parametrize("loaded", ["nothing", "all"])
async def test_get_returns_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony, loaded: str
) -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    for get in GETS:
        seen[get.__name__] = {}
        for mode, options in MODES.items():
            async with session_scope(platform.sessions) as session:
                query = select(User).where(sa.literal(loaded == "all"))
                held = await session.scalars(query, execution_options=include_deleted)
                kept = held.all()
                found = [await get(session, n, options) for n in STATES]
                seen[get.__name__][mode] = states(row for row in found if row)
                assert len(kept) == (4 if loaded == "all" else 0)
    assert seen == {get.__name__: SEEN for get in GETS}


async def test_an_option_of_the_whole_session_holds_for_its_identity_map_too(
    platform: Telephony,
) -> None:
    async with platform.sessions(execution_options=include_deleted) as session:
        first = await session.get(User, 2)
        assert first is not None
        with count_sql(platform.engine) as statements:
            assert await session.get(User, 2) is first
        assert statements.total == 0
        assert states(await session.scalars(select(User))) == SEEN["include_deleted"]


EAGER: dict[str, Callable[[Any], ORMOption]] = {
    "joined": joinedload,
    "selectin": selectinload,
    "subquery": subqueryload,
    "immediate": immediateload,
}


async def test_an_eager_collection_holds_only_the_states_that_the_query_asks_for(
    platform: Telephony,
) -> None:
    held: dict[str, list[set[str]]] = {}
    for way, load in EAGER.items():
        held[way] = []
        for options in EITHER:
            async with session_scope(platform.sessions) as session:
                query = select(User).where(User.id == 9).options(load(User.extensions))
                users = await session.scalars(query, execution_options=options)
                held[way].append(states(users.unique().one().extensions))
    assert held == {way: [SEEN["no option"], SEEN["include_deleted"]] for way in EAGER}


async def test_a_collection_filled_from_a_join_holds_only_what_the_query_asks_for(
    platform: Telephony,
) -> None:
    query = select(User).join(User.extensions).options(contains_eager(User.extensions))
    for mode, options in list(MODES.items())[:2]:
        async with session_scope(platform.sessions) as session:
            users = await session.scalars(query, execution_options=options)
            assert states(users.unique().one().extensions) == SEEN[mode]


@pytest.mark.parametrize("loaded", ["nothing", "all"])
async def test_an_eager_reference_to_a_deleted_row_is_none_unless_it_is_asked_for(
    platform: Telephony, loaded: str
) -> None:
    found: dict[str, list[bool]] = {}
    for way, load in EAGER.items():
        found[way] = []
        for options in EITHER:
            async with session_scope(platform.sessions) as session:
                query = select(Extension).where(sa.literal(loaded == "all"))
                held = await session.scalars(query, execution_options=include_deleted)
                kept = held.all()
                calls = select(Call).where(Call.id == 2).options(load(Call.extension))
                call = (await session.scalars(calls, execution_options=options)).one()
                found[way].append(call.extension is not None)
                assert len(kept) == (3 if loaded == "all" else 0)
    assert found == {way: [False, True] for way in EAGER}


async def test_a_lazy_collection_holds_no_deleted_row_whatever_its_parent_came_by(
    platform: Telephony,
) -> None:
    for options in EITHER:
        async with session_scope(platform.sessions) as session:
            query = select(User).where(User.id == 9).options(lazyload(User.extensions))
            user = (await session.scalars(query, execution_options=options)).one()
            lazily = await user.awaitable_attrs.extensions
            assert states(lazily) == SEEN["no option"]


async def test_a_lazy_reference_to_a_deleted_row_is_none_even_if_it_is_loaded(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        held = await session.get(Extension, 2, execution_options=include_deleted)
        call = await session.get_one(Call, 2)
        assert await call.awaitable_attrs.extension is None
        assert held is not None


async def test_a_relationship_that_raises_raises(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        query = select(User).where(User.id == 9).options(raiseload(User.extensions))
        user = (await session.scalars(query)).one()
        with pytest.raises(InvalidRequestError, match="lazy='raise'"):
            await user.awaitable_attrs.extensions


async def test_a_write_only_collection_reaches_no_deleted_row(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        user = await session.get_one(User, 9)
        for mode, options in MODES.items():
            rows = await session.scalars(
                user.written.select(), execution_options=options
            )
            assert states(rows) == SEEN[mode]
        await session.execute(
            user.written.update().values(number="x" + Extension.number)
        )
        numbers = select(Extension.number).order_by(Extension.id)
        found = await session.scalars(numbers, execution_options=include_deleted)
        assert found.all() == ["xlive", "deleted", "xrestored"]
        await session.execute(user.written.delete())
        assert not states(await session.scalars(user.written.select()))
        rows = await session.scalars(numbers, execution_options=only_deleted)
        assert len(rows.all()) == 3


async def test_the_legacy_query_sees_no_deleted_row(platform: Telephony) -> None:
    def ask(session: Session) -> tuple[set[str], int, object]:
        query = session.query(User)
        return states(query.all()), query.count(), query.filter_by(id=2).first()

    async with session_scope(platform.sessions) as session:
        assert await session.run_sync(ask) == (SEEN["no option"], 3, None)


async def test_a_stream_sees_no_deleted_row(platform: Telephony) -> None:
    async with session_scope(platform.sessions) as session:
        stream = await session.stream_scalars(select(User))
        assert states([user async for user in stream]) == SEEN["no option"]


async def test_refreshing_a_deleted_row_fails_as_if_it_were_gone(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        await session.refresh(await session.get_one(User, 1))
        user = await session.get(User, 2, execution_options=include_deleted)
        assert user is not None
        with pytest.raises(InvalidRequestError, match="Could not refresh"):
            await session.refresh(user)
        session.expire(user)
        with pytest.raises(ObjectDeletedError):
            await user.awaitable_attrs.email


async def test_a_row_loaded_under_the_filter_can_be_pickled(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        assert b"restored" in pickle.dumps(await session.get_one(User, 3))


async def test_merge_does_not_take_over_the_key_of_a_deleted_row(
    platform: Telephony,
) -> None:
    with pytest.raises(IntegrityError):
        async with session_scope(platform.sessions) as session:
            await session.merge(User(id=2, email="new"))


def changing(target: type[User] | sa.Table) -> sa.Update:
    """Return an UPDATE of a class or a table."""
    return sa.update(target).values(name="changed")


async def _update_by_key(session: AsyncSession, options: Options) -> None:
    rows = [{"id": n, "name": "changed"} for n in (1, 2, 3)]
    await session.execute(sa.update(User), rows, execution_options=options)


def sending(statement: sa.Executable, **more: object) -> Write:
    """Return a way to write: send the statement."""

    async def write(session: AsyncSession, options: Options) -> object:
        return await session.execute(statement, execution_options={**options, **more})

    return write


UPDATES: dict[str, Write] = {
    "class": sending(changing(User)),
    "class, fetched": sending(changing(User), synchronize_session="fetch"),
    "class, evaluated": sending(changing(User), synchronize_session="evaluate"),
    "class, unsynchronised": sending(changing(User), synchronize_session=False),
    "class, returning": sending(changing(User).returning(User)),
    "class, IN": sending(changing(User).where(User.id.in_(select(ALIAS.id)))),
    "class, column of the table": sending(changing(User).where(USERS.c.id > 0)),
    "by key": _update_by_key,
    "table": sending(changing(USERS)),
    "table, returning": sending(changing(USERS).returning(USERS.c.id)),
    "table, IN": sending(
        changing(USERS).where(USERS.c.id.in_(select(TABLE_ALIAS.c.id)))
    ),
    "table, FROM": sending(changing(USERS).where(TABLE_ALIAS.c.id == USERS.c.id)),
}


async def test_an_update_changes_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony,
) -> None:
    changed: dict[str, dict[str, set[str]]] = {}
    query = select(User.email).where(User.name == "changed")
    for way, update in UPDATES.items():
        changed[way] = {}
        for mode, options in MODES.items():
            async with platform.sessions() as session:
                await update(session, options)
                rows = await session.scalars(query, execution_options=include_deleted)
                changed[way][mode] = states(rows)
    assert changed == dict.fromkeys(UPDATES, SEEN)


async def _unit_of_work(session: AsyncSession, options: Options) -> None:
    users = await session.scalars(select(User), execution_options=options)
    for user in users.all():
        await session.delete(user)
    await session.flush()


DELETES: dict[str, Write] = {
    "class": sending(sa.delete(User)),
    "class, fetched": sending(sa.delete(User), synchronize_session="fetch"),
    "class, unsynchronised": sending(sa.delete(User), synchronize_session=False),
    "class, returning": sending(sa.delete(User).returning(User.id)),
    "class, IN": sending(sa.delete(User).where(User.id.in_(select(ALIAS.id)))),
    "table": sending(sa.delete(USERS)),
    "table, returning": sending(sa.delete(USERS).returning(USERS.c.id)),
    "unit of work": _unit_of_work,
}


async def test_a_delete_marks_live_rows_and_leaves_the_marks_of_deleted_ones(
    platform: Telephony,
) -> None:
    before = platform.clock.now
    platform.clock.tick()
    platform.actor = "grace"
    marked: dict[str, dict[str, set[str]]] = {}
    everyone = select(User.email, User.deleted_at, User.deleted_by)
    for way, delete in DELETES.items():
        marked[way] = {}
        for mode, options in MODES.items():
            async with platform.sessions() as session:
                await delete(session, options)
                rows = await session.execute(
                    everyone, execution_options=include_deleted
                )
                marks = {
                    email: (when.replace(tzinfo=UTC), who)
                    for email, when, who in rows
                    if when
                }
            assert marks["deleted"] == (before, "ada")
            now = (platform.clock.now, "grace")
            marked[way][mode] = states(name for name in marks if marks[name] == now)
    live = SEEN["no option"]
    expected = {"no option": live, "include_deleted": live, "only_deleted": set()}
    assert marked == dict.fromkeys(DELETES, expected)


COPIES: dict[str, sa.Insert] = {
    "class": sa.insert(User).from_select(
        ["id", "email"], select(ALIAS.id + 100, ALIAS.email + "+")
    ),
    "table": sa.insert(USERS).from_select(
        ["id", "email"], select(TABLE_ALIAS.c.id + 100, TABLE_ALIAS.c.email + "+")
    ),
}


async def test_an_insert_from_a_query_copies_only_the_states_that_it_asks_for(
    platform: Telephony,
) -> None:
    copied: dict[str, dict[str, set[str]]] = {}
    query = select(User.email).where(User.email.endswith("+"))
    for way, copy in COPIES.items():
        copied[way] = {}
        for mode, options in MODES.items():
            async with platform.sessions() as session:
                await session.execute(copy, execution_options=options)
                rows = await session.scalars(query, execution_options=include_deleted)
                copied[way][mode] = states(email.removesuffix("+") for email in rows)
    assert copied == dict.fromkeys(COPIES, SEEN)


def email(row: Table, n: int) -> sa.ColumnElement[str]:
    """Return a query for a user's address that can stand in the place of a value."""
    query = select(row.email).where(row.id == n).correlate(None)
    return func.coalesce(query.scalar_subquery(), "")


def inserting(target: type[User] | sa.Table, value: object) -> sa.Insert:
    """Return an INSERT of one row."""
    return sa.insert(target).values(id=100, email="new", name=value)


def naming(target: type[User] | sa.Table, value: object) -> sa.Update:
    """Return an UPDATE of the live user, whom every deleted one leaves alone."""
    row: Table = target if isinstance(target, type) else target.c
    return sa.update(target).where(row.id == 9).values(name=value)


def beside(row: Table, owner: Table, n: int, key: int = 9) -> sa.ColumnElement[bool]:
    """Hold for the n-th row, beside the row of the owner."""
    condition: sa.ColumnElement[bool] = row.id == owner.id + (n - key)
    return condition


def joined(n: int) -> sa.ColumnElement[str]:
    """Return such a query, in which the table that is written to is joined."""
    query = select(USERS.c.email).select_from(
        sa.outerjoin(EXTENSIONS, USERS, USERS.c.id == n)
    )
    return func.coalesce(query.limit(1).scalar_subquery(), "")


T_ALIAS, T_OTHER = TABLE_ALIAS.c, USERS.alias().c

INSERTED: dict[str, Callable[[int], sa.Executable]] = {
    "class, of a class": lambda n: inserting(User, email(User, n)),
    "class, of an alias": lambda n: inserting(User, email(ALIAS, n)),
    "class, of a table": lambda n: inserting(User, email(USERS.c, n)),
    "table, of a class": lambda n: inserting(USERS, email(ALIAS, n)),
    "table, of itself": lambda n: inserting(USERS, email(USERS.c, n)),
    "table, of its alias": lambda n: inserting(USERS, email(T_ALIAS, n)),
    "table, of a CTE": lambda n: inserting(
        USERS, email(select(USERS).where(USERS.c.id == n).cte().c, n)
    ),
    "returning": lambda n: inserting(User, email(ALIAS, n)).returning(User.id),
    "instances": lambda n: select(User).from_statement(
        inserting(User, email(T_ALIAS, n)).returning(User)
    ),
}
UPDATED: dict[str, Callable[[int], sa.Executable]] = {
    "class, of a class": lambda n: naming(User, email(User, n)),
    "class, of an alias": lambda n: naming(User, email(ALIAS, n)),
    "class, of a table": lambda n: naming(User, email(USERS.c, n)),
    "class, of a table's alias": lambda n: naming(User, email(T_ALIAS, n)),
    "class, FROM": lambda n: naming(User, ALIAS.email).where(beside(ALIAS, User, n)),
    "class, FROM a table": lambda n: naming(User, T_ALIAS.email).where(
        beside(T_ALIAS, User, n)
    ),
    "class, FROM, for a query": lambda n: naming(User, ALIAS.email).where(
        beside(ALIAS, User, n), User.id.in_(select(OTHER.id))
    ),
    "instances, FROM": lambda n: select(User).from_statement(
        naming(User, ALIAS.email).where(beside(ALIAS, User, n)).returning(User)
    ),
    "table, of a class": lambda n: naming(USERS, email(ALIAS, n)),
    "table, of itself": lambda n: naming(USERS, email(USERS.c, n)),
    "table, of its alias": lambda n: naming(USERS, email(T_ALIAS, n)),
    "table, by column": lambda n: (
        sa.update(USERS)
        .where(USERS.c.id == 9)
        .values({USERS.c.name: email(T_ALIAS, n)})
    ),
    "table, in order": lambda n: (
        sa.update(USERS)
        .where(USERS.c.id == 9)
        .ordered_values((USERS.c.name, email(T_ALIAS, n)))
    ),
    "table, FROM": lambda n: naming(USERS, T_ALIAS.email).where(
        beside(T_ALIAS, USERS.c, n)
    ),
    "table, FROM, for a query": lambda n: naming(USERS, T_ALIAS.email).where(
        beside(T_ALIAS, USERS.c, n), USERS.c.id.in_(select(T_OTHER.id))
    ),
    "table, FROM a class": lambda n: naming(USERS, ALIAS.email).where(
        beside(ALIAS, USERS.c, n)
    ),
    "table, joined": lambda n: naming(USERS, joined(n)),
    "FROM another class": lambda n: naming(User, Extension.number).where(
        beside(Extension, User, n)
    ),
}


@pytest.mark.parametrize("way", INSERTED)
async def test_an_insert_uses_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony, way: str
) -> None:
    assert await used(platform, INSERTED[way], 100) == SEEN


@pytest.mark.parametrize("way", UPDATED)
async def test_an_update_uses_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony, way: str
) -> None:
    # The user who is to be changed is live, so that among deleted ones nothing is.
    assert await used(platform, UPDATED[way], 9) == SEEN | {"only_deleted": set()}


async def used(
    platform: Telephony, write: Callable[[int], sa.Executable], key: int
) -> dict[str, set[str]]:
    """Return the states whose name a write got hold of, and gave to a user."""
    found: dict[str, set[str]] = {}
    for mode, options in MODES.items():
        names: list[object] = []
        for n in STATES:
            async with platform.sessions() as session:
                await session.execute(write(n), execution_options=options)
                name = select(User.name).where(User.id == key)
                names.append(
                    await session.scalar(name, execution_options=include_deleted)
                )
        found[mode] = {str(name) for name in names} & {*STATES.values()}
    return found


async def test_a_delete_by_another_table_heeds_only_the_rows_that_it_asks_for(
    platform: Telephony,
) -> None:
    deletes: dict[str, Callable[[int], sa.Delete]] = {
        "class": lambda n: sa.delete(User).where(User.id == 9, beside(ALIAS, User, n)),
        "table": lambda n: sa.delete(USERS).where(
            USERS.c.id == 9, beside(T_ALIAS, USERS.c, n)
        ),
        "kept": lambda n: sa.delete(Call).where(
            Call.id == 1, beside(Extension, Call, n, 1)
        ),
        "kept, table": lambda n: sa.delete(CALLS).where(
            CALLS.c.id == 1, beside(EXTENSIONS.c, CALLS.c, n, 1)
        ),
    }
    if platform.engine.dialect.name == "sqlite":  # which has no DELETE .. USING
        for way in ("kept", "kept, table"):
            with pytest.raises((CompileError, NotImplementedError)):
                async with platform.sessions() as session:
                    await session.execute(deletes[way](1))
            del deletes[way]
    heeded: dict[str, dict[str, set[str]]] = {}
    for way, delete in deletes.items():
        heeded[way] = {}
        for mode, options in MODES.items():
            heeded[way][mode] = set()
            for n, name in STATES.items():
                async with platform.sessions() as session:
                    await session.execute(delete(n), execution_options=options)
                    left = await session.get(
                        *((Call, 1) if "kept" in way else (User, 9))
                    )
                    if left is None:
                        heeded[way][mode].add(name)
    for way in deletes:
        hidden: set[str] = SEEN["only_deleted"] if "kept" in way else set()
        assert heeded[way] == SEEN | {"only_deleted": hidden}


@pytest.mark.parametrize("target", [User, USERS])
async def test_an_upsert_changes_a_row_only_in_the_states_that_it_asks_for(
    platform: Telephony, target: type[User] | sa.Table
) -> None:
    dialect = platform.engine.dialect.name
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    rows = [{"id": n, "email": "+", "name": "changed"} for n in (1, 2, 3)]
    upsert = insert(target).on_conflict_do_update(
        index_elements=["id"], set_={"name": "changed"}
    )
    changed: dict[str, set[str]] = {}
    query = select(User.email).where(User.name == "changed")
    for mode, options in MODES.items():
        async with platform.sessions() as session:
            for row in rows:
                await session.execute(upsert.values(row), execution_options=options)
            found = await session.scalars(query, execution_options=include_deleted)
            changed[mode] = states(found)
    assert changed == SEEN


REFUSED: dict[str, Callable[[], sa.Executable]] = {
    "orm.join": lambda: select(User).select_from(join(User, ALIAS, ALIAS.id == 2)),
    "orm.outerjoin": lambda: select(User).select_from(
        outerjoin(User, ALIAS, ALIAS.id == 2)
    ),
    "sa.join": lambda: select(func.count()).select_from(
        sa.join(User, ALIAS, ALIAS.id == 2)
    ),
    "join of three": lambda: select(func.count()).select_from(
        sa.join(Call, sa.join(User, ALIAS, ALIAS.id == 2), sa.true())
    ),
    "join in a subquery": lambda: select(Call.id).where(
        Call.id.in_(select(ALIAS.id).select_from(join(Call, ALIAS, ALIAS.id == 2)))
    ),
    "join in a union": lambda: sa.union(
        select(User.id), select(ALIAS.id).select_from(join(User, ALIAS, ALIAS.id == 2))
    ),
    "join, as instances": lambda: select(User).from_statement(
        select(ALIAS).select_from(join(User, ALIAS, ALIAS.id == 2))
    ),
    "join in an UPDATE": lambda: changing(USERS).where(
        USERS.c.id.in_(select(ALIAS.id).select_from(sa.join(User, ALIAS, sa.true())))
    ),
    "alias of a class": lambda: sa.update(aliased(User)).values(name="changed"),
    "rows of VALUES": lambda: sa.insert(User).values(
        [{"id": 100, "email": "new", "name": email(ALIAS, 2)}]
    ),
    "rows of VALUES, of a table": lambda: sa.insert(USERS).values(
        [(100, "new", email(T_ALIAS, 2))]
    ),
}


@pytest.mark.parametrize("way", REFUSED)
async def test_what_cannot_be_narrowed_is_refused_unless_deleted_rows_are_asked_for(
    platform: Telephony, way: str
) -> None:
    async with platform.sessions() as session:
        with pytest.raises(InvalidRequestError, match=r"narrowed|by itself"):
            await session.execute(REFUSED[way]())
    if way not in ("rows of VALUES, of a table", "alias of a class"):
        async with platform.sessions() as session:
            await session.execute(REFUSED[way](), execution_options=include_deleted)


@pytest.mark.parametrize("target", [User, USERS])
async def test_a_query_among_parameters_is_refused(
    platform: Telephony, target: type[User] | sa.Table
) -> None:
    rows = [{"id": 100, "email": "new", "name": email(ALIAS, 2)}]
    async with platform.sessions() as session:
        with pytest.raises(InvalidRequestError, match="by itself"):
            await session.execute(sa.insert(target), rows)
        with pytest.raises(InvalidRequestError, match="by itself"):
            await session.execute(sa.insert(target), rows[0])
        with pytest.raises(InvalidRequestError, match="by itself"):
            await session.execute(sa.update(User), [{"id": 1, "name": email(ALIAS, 2)}])


OUT_OF_REACH: dict[str, Read] = {
    "text": lambda: sa.text("SELECT id FROM users"),
    "instances from text": lambda: select(User).from_statement(
        sa.text("SELECT * FROM users")
    ),
    "a table beside a class": lambda: select(USERS.c.id).where(
        USERS.c.id.in_(select(User.id + 1))
    ),
}


async def test_what_the_filter_cannot_reach_is_what_the_module_says(
    platform: Telephony,
) -> None:
    async with session_scope(platform.sessions) as session:
        for query in OUT_OF_REACH.values():
            assert "deleted" in states((await session.execute(query())).all())
        connection = await session.connection()
        assert "deleted" in states((await connection.execute(select(USERS))).all())
        owner = await session.get_one(User, 9)
        owner.name = email(ALIAS, 2)
        await session.flush()
        assert await session.scalar(select(User.name).where(User.id == 9)) == "deleted"
