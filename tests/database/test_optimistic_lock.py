"""Whoever writes second, by whatever kind of statement, does not undo the first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    aliased,
    declared_attr,
    mapped_column,
)
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.optimistic_lock import (
    VersionMixin,
    delete_unchanged,
    install_optimistic_lock,
)
from snippets.database.optimistic_lock_naive import save
from snippets.database.repository import BaseRepository
from tests.support.counters import count_sql
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

    from catalogue.plugin import Proof

    Sessions = async_sessionmaker[AsyncSession]
    Write = Callable[[AsyncSession, "Extension", str], Awaitable[object]]


class Base(DeclarativeBase):
    """The tables of these tests."""


class Extension(VersionMixin, Base):
    """Where a number forwards its calls to."""

    __tablename__ = "extensions"

    id: Mapped[int] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column("forwards_to")
    tenant: Mapped[str] = mapped_column(default="acme")


class Call(Base):
    """A row without a version, although a column has that name."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[str]


class Plain(Base):
    """The same extension without a version."""

    __tablename__ = "plain"

    id: Mapped[int] = mapped_column(primary_key=True)
    forwards_to: Mapped[str]


class Unguarded(VersionMixin, Base):
    """A model whose own arguments have displaced those of the mixin."""

    __tablename__ = "unguarded"

    id: Mapped[int] = mapped_column(primary_key=True)

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, object]:
        """Say nothing of the version."""
        return {}


TABLE = Base.metadata.tables["extensions"]
IS_IT = Extension.id == 17


@pytest.fixture
async def engine_and_sessions(
    database_url: str,
) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """An engine, and sessions with the lock, on a database with one extension."""
    engine, sessions = create_engine_and_sessions(database_url)
    install_optimistic_lock(sessions)
    await create_tables(engine, Base.metadata)
    async with session_scope(sessions) as session:
        session.add(Extension(id=17, target="reception"))
    yield engine, sessions
    await engine.dispose()


@pytest.fixture
def engine(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> AsyncEngine:
    """Its engine."""
    return engine_and_sessions[0]


@pytest.fixture
def sessions(engine_and_sessions: tuple[AsyncEngine, Sessions]) -> Sessions:
    """Its sessions."""
    return engine_and_sessions[1]


async def read(sessions: Sessions, key: int = 17) -> Extension:
    """Return the extension as a session of its own finds it."""
    async with session_scope(sessions) as session:
        return await session.get_one(Extension, key)


async def flush(session: AsyncSession, seen: Extension, target: str) -> None:
    session.add(seen)
    seen.target = target
    await session.flush()


async def values(session: AsyncSession, seen: Extension, target: str) -> None:
    update = sa.update(Extension).where(IS_IT)
    await session.execute(update.values(target=target, version=seen.version))


async def several_values(session: AsyncSession, seen: Extension, target: str) -> None:
    update = sa.update(Extension).where(IS_IT).values(version=seen.version)
    await session.execute(update.values({Extension.target: target}))


async def returning(session: AsyncSession, seen: Extension, target: str) -> None:
    update = sa.update(Extension).where(IS_IT).returning(Extension)
    await session.scalars(update.values(target=target, version=seen.version))


async def of_an_alias(session: AsyncSession, seen: Extension, target: str) -> None:
    alias = aliased(Extension)
    update = sa.update(alias).where(alias.id == 17)
    await session.execute(update.values(target=target, version=seen.version))


async def from_another(session: AsyncSession, seen: Extension, target: str) -> None:
    other = aliased(Extension)
    update = sa.update(Extension).where(IS_IT, Extension.id == other.id)
    await session.execute(update.values(target=target, version=seen.version))


async def core(session: AsyncSession, seen: Extension, target: str) -> None:
    update = sa.update(TABLE).where(TABLE.c.id == 17)
    named = {TABLE.c.forwards_to: target, TABLE.c.version: seen.version}
    await session.execute(update.values(named))


async def core_returning(session: AsyncSession, seen: Extension, target: str) -> None:
    update = sa.update(TABLE).where(TABLE.c.id == 17).returning(TABLE.c.id)
    update = update.values(forwards_to=target, version=seen.version)
    assert (await session.scalars(update)).all() == [17]


async def repository(session: AsyncSession, seen: Extension, target: str) -> None:
    extensions = BaseRepository(Extension, session)
    changed = await extensions.update(17, target=target, version=seen.version)
    assert changed is not None


CHECKING = [
    flush,
    values,
    several_values,
    returning,
    of_an_alias,
    from_another,
    core,
    core_returning,
    repository,
]
"""The ways to change the row at the version that was seen."""


async def bulk(session: AsyncSession, target: str) -> None:
    await session.execute(sa.update(Extension).where(IS_IT).values(target=target))


async def bulk_parameters(session: AsyncSession, target: str) -> None:
    update = sa.update(Extension).where(IS_IT)
    await session.execute(update, {"forwards_to": target})


async def bulk_alias(session: AsyncSession, target: str) -> None:
    alias = aliased(Extension)
    await session.execute(sa.update(alias).where(alias.id == 17).values(target=target))


async def bulk_table_alias(session: AsyncSession, target: str) -> None:
    alias: Any = TABLE.alias()
    update = sa.update(alias).where(alias.c.id == 17)
    await session.execute(update.values(forwards_to=target))


async def bulk_from_statement(session: AsyncSession, target: str) -> None:
    update = sa.update(Extension).where(IS_IT).values(target=target)
    whole = sa.select(Extension).from_statement(update.returning(Extension))
    await session.scalars(whole)


async def bulk_core(session: AsyncSession, target: str) -> None:
    await session.execute(sa.update(TABLE).values(forwards_to=target))


async def bulk_core_list(session: AsyncSession, target: str) -> None:
    update = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("key"))
    await session.execute(update, [{"key": 17, "forwards_to": target}])


async def bulk_in_repository(session: AsyncSession, target: str) -> None:
    await BaseRepository(Extension, session).update(17, target=target)


def upsert_into(
    session: AsyncSession, target: type[Extension] | sa.Table
) -> sqlite.Insert | postgresql.Insert:
    """Return the INSERT of the session's dialect that can update instead."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(target)
    return postgresql.insert(target)


async def upsert(session: AsyncSession, target: str) -> None:
    insert = upsert_into(session, Extension).values(id=17, target=target)
    sets = {"forwards_to": insert.excluded.forwards_to}
    await session.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_=sets)
    )


async def core_upsert(session: AsyncSession, target: str) -> None:
    row = {"id": 17, "forwards_to": target, "tenant": "acme"}
    insert = upsert_into(session, TABLE).values(row)
    await session.execute(insert.on_conflict_do_update(index_elements=["id"], set_=row))


async def past_the_session(session: AsyncSession, target: str) -> None:
    connection = await session.connection()
    await connection.execute(sa.update(TABLE).values(forwards_to=target))


ADVANCING = [
    bulk,
    bulk_parameters,
    bulk_alias,
    bulk_table_alias,
    bulk_from_statement,
    bulk_core,
    bulk_core_list,
    bulk_in_repository,
    upsert,
    core_upsert,
    past_the_session,
]
"""The ways to change the row at whatever version it is."""


@pytest.mark.parametrize("write", CHECKING)
async def test_of_two_who_have_read_the_same_the_second_to_write_fails(
    sessions: Sessions, write: Write
) -> None:
    both_have_read = asyncio.Barrier(2)

    async def work(target: str) -> str:
        seen = await read(sessions)
        await both_have_read.wait()
        async with session_scope(sessions) as session:
            await write(session, seen, target)
        return target

    done = await asyncio.gather(work("Ada"), work("Grace"), return_exceptions=True)

    (saved,) = [each for each in done if isinstance(each, str)]
    (refused,) = [each for each in done if not isinstance(each, str)]
    assert isinstance(refused, StaleDataError)
    assert (await read(sessions)).target == saved


@pytest.mark.parametrize("write", CHECKING)
async def test_one_writer_may_go_on_with_what_came_of_its_own_change(
    sessions: Sessions, write: Write
) -> None:
    for target in ("Ada", "Grace", "Linus"):
        before = await read(sessions)
        seen = before.version
        async with session_scope(sessions) as session:
            await write(session, before, target)
        after = await read(sessions)
        assert after.target == target
        assert after.version > seen


@pytest.mark.parametrize("write", CHECKING)
async def test_what_was_deleted_meanwhile_is_a_conflict_and_is_not_inserted(
    sessions: Sessions, write: Write
) -> None:
    seen = await read(sessions)
    async with session_scope(sessions) as session:
        await session.execute(sa.delete(Extension))

    with pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            await write(session, seen, "Grace")

    async with sessions() as session:
        assert await session.get(Extension, 17) is None


@pytest.mark.parametrize("change", ADVANCING)
async def test_whatever_changes_a_row_makes_the_change_of_who_has_read_it_fail(
    sessions: Sessions, change: Callable[[AsyncSession, str], Awaitable[object]]
) -> None:
    seen = await read(sessions)
    version = seen.version
    async with session_scope(sessions) as session:
        await change(session, "Ada")
    now = await read(sessions)
    assert now.target == "Ada"
    assert now.version > version

    with pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            await flush(session, seen, "Grace")
    assert (await read(sessions)).target == "Ada"


@pytest.mark.parametrize("write", CHECKING)
async def test_a_session_may_change_what_it_holds_after_a_statement_of_its_own(
    sessions: Sessions, write: Write
) -> None:
    async with session_scope(sessions) as session:
        held = await session.get_one(Extension, 17)
        await write(session, held, "Ada")
        if write in (of_an_alias, core, core_returning):  # of which it does not know
            await session.refresh(held)
        await flush(session, held, "Grace")
    now = await read(sessions)
    assert (now.target, now.version) == ("Grace", held.version)


@pytest.mark.backends("postgresql")
async def test_a_bulk_update_which_only_seems_to_reach_a_held_row_leaves_it_stale(
    sessions: Sessions,
) -> None:
    async with session_scope(sessions) as session:
        held = await session.get_one(Extension, 17)
        async with session_scope(sessions) as other:
            await bulk(other, "Ada")
        reception = Extension.target == "reception"  # which it no longer is
        update = sa.update(Extension).where(reception).values(tenant="globex")
        changed = await session.execute(update)
        assert isinstance(changed, sa.CursorResult)
        assert (changed.rowcount, held.tenant) == (0, "globex")
        held.target = "Grace"
        with pytest.raises(StaleDataError):
            await session.flush()
        await session.rollback()
    assert (await read(sessions)).target == "Ada"


@pytest.mark.backends("postgresql")
async def test_a_bulk_update_of_a_held_row_that_another_one_changed_leaves_it_stale(
    sessions: Sessions,
) -> None:
    async with session_scope(sessions) as session:
        held = await session.get_one(Extension, 17)
        async with session_scope(sessions) as other:
            await bulk(other, "Ada")
        await session.execute(sa.update(Extension).values(tenant="globex"))
        held.target = "Grace"
        with pytest.raises(StaleDataError):
            await session.flush()
        await session.rollback()
    assert (await read(sessions)).target == "Ada"


async def test_a_delete_of_what_another_one_changed_fails(sessions: Sessions) -> None:
    async def by_the_unit_of_work(session: AsyncSession, seen: Extension) -> None:
        await session.delete(seen)
        await session.flush()

    for delete in (by_the_unit_of_work, delete_unchanged):
        seen = await read(sessions)
        async with session_scope(sessions) as session:
            await bulk(session, "Ada")
        with pytest.raises(StaleDataError):
            async with session_scope(sessions) as session:
                await delete(session, seen)

        async with session_scope(sessions) as session:
            await delete(session, await session.get_one(Extension, 17))
        async with session_scope(sessions) as session:
            assert await session.get(Extension, 17) is None
            session.add(Extension(id=17, target="reception"))


async def test_a_change_that_is_not_flushed_yet_is_no_conflict_with_its_own_deletion(
    sessions: Sessions,
) -> None:
    async with session_scope(sessions) as session:
        held = await session.get_one(Extension, 17)
        held.target = "Ada"
        await delete_unchanged(session, held)
        assert await session.get(Extension, 17) is None


async def merge(session: AsyncSession, seen: Extension, target: str) -> None:
    await session.merge(Extension(id=17, target=target, version=seen.version))


async def test_a_merge_checks_the_version_and_never_inserts(sessions: Sessions) -> None:
    seen = await read(sessions)
    async with session_scope(sessions) as session:
        await merge(session, seen, "Ada")
    with pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            await merge(session, seen, "Grace")
    seen = await read(sessions)
    assert seen.target == "Ada"

    async with session_scope(sessions) as session:
        await session.execute(sa.delete(Extension))
    with pytest.raises(StaleDataError, match="no longer there"):
        async with session_scope(sessions) as session:
            await merge(session, seen, "Grace")
    async with sessions() as session:
        assert await session.get(Extension, 17) is None


@pytest.mark.parametrize("write", CHECKING)
async def test_a_row_under_the_key_of_a_deleted_one_is_not_taken_for_it(
    sessions: Sessions, write: Write
) -> None:
    seen = await read(sessions)
    async with session_scope(sessions) as session:
        await session.delete(await session.get_one(Extension, 17))
    async with session_scope(sessions) as session:
        session.add(Extension(id=17, target="Linus"))

    with pytest.raises(StaleDataError):
        async with session_scope(sessions) as session:
            await write(session, seen, "Grace")
    assert (await read(sessions)).target == "Linus"


@pytest.mark.parametrize(
    "insert",
    [
        lambda: sa.insert(Extension).values(id=1, target="Ada"),
        lambda: sa.insert(Extension).values([{"id": 1, "target": "Ada"}]),
        lambda: sa.insert(TABLE).values(id=1, forwards_to="Ada"),
    ],
)
async def test_a_row_that_a_statement_inserts_has_a_version_of_its_own(
    sessions: Sessions, insert: Callable[[], sa.Insert]
) -> None:
    async with session_scope(sessions) as session:
        await session.execute(insert())
    new, old = await read(sessions, 1), await read(sessions)
    assert new.version > 0
    assert new.version != old.version


async def test_an_update_that_is_given_a_version_may_not_change_two_rows(
    sessions: Sessions,
) -> None:
    seen = await read(sessions)
    twin = {"id": 18, "forwards_to": "x", "tenant": "acme", "version": seen.version}
    async with session_scope(sessions) as session:
        await session.execute(sa.insert(TABLE).values(twin))
    update = sa.update(Extension).values(target="Ada", version=seen.version)
    with pytest.raises(StaleDataError, match="2 rows"):
        async with session_scope(sessions) as session:
            await session.execute(update)
    assert (await read(sessions)).target == "reception"


@pytest.mark.parametrize("version", [None, 0, -1, 2**63 - 1])
async def test_no_version_that_a_row_never_had_matches_it(
    sessions: Sessions, version: int | None
) -> None:
    update = sa.update(Extension).values(target="Ada", version=version)
    for statement in (update, update.returning(Extension)):
        with pytest.raises(StaleDataError, match="0 rows"):
            async with session_scope(sessions) as session:
                await session.execute(statement)
    assert (await read(sessions)).target == "reception"


def in_a_lambda() -> sa.Executable:
    return sa.lambda_stmt(lambda: sa.update(Extension).values(target="Ada", version=1))


def in_a_cte() -> sa.Executable:
    update = sa.update(Extension).values(target="Ada", version=1)
    return sa.select(update.returning(Extension.id).cte())


def upsert_in_a_cte() -> sa.Executable:
    insert = postgresql.insert(Extension).values(id=17, target="Ada")
    upsert = insert.on_conflict_do_update(
        index_elements=["id"], set_={"forwards_to": "Ada"}
    )
    return sa.select(upsert.returning(Extension.id).cte())


@pytest.mark.parametrize("nested", [in_a_lambda, in_a_cte, upsert_in_a_cte])
async def test_a_write_within_another_statement_is_refused(
    engine: AsyncEngine, sessions: Sessions, nested: Callable[[], sa.Executable]
) -> None:
    with count_sql(engine) as sql, pytest.raises(InvalidRequestError, match="itself"):
        async with session_scope(sessions) as session:
            await session.execute(nested())
    assert sql.texts == []


async def test_nobody_sets_the_version_by_hand(sessions: Sessions) -> None:
    before = (await read(sessions)).version

    async def attribute(session: AsyncSession) -> None:
        (await session.get_one(Extension, 17)).version = 1
        await session.flush()

    async def parameter(session: AsyncSession) -> None:
        await session.execute(sa.update(Extension).where(IS_IT), {"version": 1})

    async def core_parameters(session: AsyncSession) -> None:
        update = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("key"))
        await session.execute(update, [{"key": 17, "version": 1}])

    async def by_key(session: AsyncSession) -> None:
        row = {"id": 17, "target": "x", "version": before}
        await session.execute(sa.update(Extension), [row])

    async def from_statement(session: AsyncSession) -> None:
        update = sa.update(Extension).values(version=1).returning(Extension)
        await session.scalars(sa.select(Extension).from_statement(update))

    async def ordered(session: AsyncSession) -> None:
        update = sa.update(Extension).ordered_values(("version", 1))
        await session.execute(update)

    async def in_an_upsert(session: AsyncSession) -> None:
        insert = upsert_into(session, Extension).values(id=17, target="x")
        sets = {"version": insert.excluded.version}
        await session.execute(
            insert.on_conflict_do_update(index_elements=["id"], set_=sets)
        )

    ways = attribute, parameter, core_parameters, by_key, from_statement, ordered
    for way in (*ways, in_an_upsert):
        with pytest.raises(InvalidRequestError):
            async with session_scope(sessions) as session:
                await way(session)
    now = await read(sessions)
    assert (now.target, now.version) == ("reception", before)


async def test_a_model_that_displaces_the_check_is_refused(sessions: Sessions) -> None:
    with pytest.raises(TypeError, match="Unguarded lacks the __mapper_args__"):
        async with session_scope(sessions) as session:
            session.add(Unguarded(id=1))


async def test_a_table_without_the_mixin_is_left_alone(sessions: Sessions) -> None:
    async with session_scope(sessions) as session:
        session.add(Call(id=1, version="SIP/2.0"))
        await session.flush()
        await session.execute(sa.update(Call).values(version="SIP/3.0"))
        row = [{"id": 1, "version": "SIP/4.0"}]
        await session.execute(sa.update(Call), row)
        call = await session.get_one(Call, 1, populate_existing=True)
        assert call.version == "SIP/4.0"


async def test_a_cancelled_writer_leaves_the_version_to_the_next_one(
    sessions: Sessions,
) -> None:
    seen = await read(sessions)
    has_written, never = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with session_scope(sessions) as session:
            await values(session, seen, "Ada")
            has_written.set()
            await never.wait()

    task = asyncio.create_task(work())
    await has_written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with session_scope(sessions) as session:
        await values(session, seen, "Grace")
    assert (await read(sessions)).target == "Grace"


async def test_a_check_is_part_of_the_one_statement_that_writes(
    engine: AsyncEngine, sessions: Sessions, proof: Proof
) -> None:
    seen = await read(sessions)
    async with session_scope(sessions) as session:
        with count_sql(engine) as sent:
            await repository(session, seen, "Ada")
    (text,) = sent.texts
    assert text.startswith("UPDATE extensions SET")
    assert "extensions.version = " in text.partition("WHERE")[2]
    assert "RETURNING" in text
    proof.cost("one update by the repository, checked", statements=1)

    seen = await read(sessions)
    async with session_scope(sessions) as session:
        with count_sql(engine) as sent:
            await flush(session, seen, "Grace")
    (text,) = sent.texts
    assert "extensions.version = " in text.partition("WHERE")[2]
    proof.cost("one update by the unit of work, checked", statements=1)

    async with session_scope(sessions) as session:
        with count_sql(engine) as sent:
            await bulk(session, "Linus")
    assert sent.total == 1
    proof.cost("one bulk update of any number of rows", statements=1)

    seen = await read(sessions)
    async with session_scope(sessions) as session:
        with count_sql(engine) as sent:
            await delete_unchanged(session, seen)
    assert sent.total == 1
    proof.cost("one deletion, checked", statements=1)


async def test_the_naive_form_loses_the_change_of_whoever_saved_first(
    sessions: Sessions, proof: Proof
) -> None:
    async with session_scope(sessions) as session:
        session.add(Plain(id=17, forwards_to="reception"))
    both_have_read = asyncio.Barrier(2)
    ada_has_saved = asyncio.Event()

    async def work(target: str) -> bool:
        async with session_scope(sessions) as session:
            seen = await session.get_one(Plain, 17)
        form = {"forwards_to": f"{seen.forwards_to}, then {target}"}
        await both_have_read.wait()
        if target == "mobile":
            await ada_has_saved.wait()
        async with session_scope(sessions) as session:
            saved = await save(session, Plain, 17, form)
        ada_has_saved.set()
        return saved

    assert all(await asyncio.gather(work("voicemail"), work("mobile")))
    async with sessions() as session:
        now = await session.get_one(Plain, 17)
    assert now.forwards_to == "reception, then mobile"
    proof.breaks(
        "Ada and Grace open the same form, and Ada saves first",
        "both are told that it is saved, and Ada's change is lost",
    )
