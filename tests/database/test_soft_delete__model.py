"""Whatever is done in whatever order, the database says what a plain model says."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeAlias, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.database.async_session import session_scope
from snippets.database.conflict import ConflictError
from snippets.database.soft_delete import (
    include_deleted,
    only_deleted,
    purge,
    restore,
    soft_delete,
)
from tests.support.soft_delete import Base, Extension, Telephony, User, telephony

T = TypeVar("T")
Kind: TypeAlias = type[User | Extension]
Mark: TypeAlias = tuple[datetime, str] | None

KINDS: tuple[Kind, ...] = (User, Extension)
KEYS = st.integers(1, 3)
NAMES = st.sampled_from(["ada", "grace"])
ACTORS = st.sampled_from(["root", "cron"])


@dataclass
class Row:
    """A row of the model: what it has to itself, its mark, its owner, a value."""

    name: str
    mark: Mark = None
    user: int = 0
    value: str = ""


class Database:
    """The database, with one session for all operations or one for each."""

    def __init__(
        self, runner: asyncio.Runner, platform: Telephony, *, one_session: bool
    ) -> None:
        """Work in the event loop of a runner, which outlives each operation."""
        self.runner = runner
        self.platform = platform
        self.session = platform.sessions() if one_session else None

    def do(self, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Do something and commit it."""
        return self.runner.run(self._do(act))

    async def _do(self, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
        if self.session is None:
            async with session_scope(self.platform.sessions) as session:
                return await act(session)
        result = await act(self.session)
        await self.session.commit()
        return result

    def clear(self) -> None:
        """Remove all rows."""
        self.runner.run(self._clear())

    async def _clear(self) -> None:
        if self.session is not None:
            await self.session.close()
            self.session = self.platform.sessions()
        async with self.platform.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                await connection.execute(sa.delete(table))


class Machine(RuleBasedStateMachine):
    """Users, the extensions that go with them, and what a plain model says of both."""

    database: ClassVar[Database]
    outcomes: ClassVar[set[tuple[str, object]]]
    """What has happened in any run."""

    def __init__(self) -> None:
        """Begin with empty tables."""
        super().__init__()
        self.database.clear()
        self.users: dict[int, Row] = {}
        self.extensions: dict[int, Row] = {}

    @property
    def now(self) -> Mark:
        """The mark of what is deleted now."""
        return self.database.platform.clock.now, self.database.platform.actor or ""

    def rows(self, model: Kind) -> dict[int, Row]:
        """Return the model of a table."""
        return self.users if model is User else self.extensions

    def is_taken(self, model: Kind, name: str) -> bool:
        """Return whether a live row has the name to itself."""
        rows = self.rows(model).values()
        return any(row.name == name and row.mark is None for row in rows)

    def owner_is_live(self, row: Row) -> bool:
        """Return whether an extension's user is there and not deleted."""
        owner = self.users.get(row.user)
        return owner is not None and owner.mark is None

    @rule(actor=ACTORS)
    def another_actor_a_second_later(self, actor: str) -> None:
        """Let time go by."""
        self.database.platform.clock.tick()
        self.database.platform.actor = actor

    @initialize()
    def a_user_has_an_extension(self) -> None:
        """Begin with something that can be deleted."""
        self._create(User, 1, Row("ada"))
        self._create(Extension, 1, Row("ada", user=1))

    def _create(self, model: Kind, key: int, row: Row) -> None:
        async def create(session: AsyncSession) -> bool:
            new = (
                User(id=key, email=row.name)
                if model is User
                else Extension(id=key, number=row.name, user_id=row.user)
            )
            try:
                async with session.begin_nested():
                    session.add(new)
            except IntegrityError:
                return False
            return True

        possible = key not in self.rows(model) and not self.is_taken(model, row.name)
        possible = possible and (model is User or self.owner_is_live(row))
        assert self.database.do(create) is possible
        self.outcomes.add(("create", possible))
        if possible:
            self.rows(model)[key] = row

    @rule(key=KEYS, name=NAMES)
    def create_user(self, key: int, name: str) -> None:
        """A key and an address are free, or the user is refused."""
        self._create(User, key, Row(name))

    @rule(key=KEYS, name=NAMES, user=KEYS)
    def create_extension(self, key: int, name: str, user: int) -> None:
        """A key and a number are free and the user is live, or it is refused."""
        self._create(Extension, key, Row(name, user=user))

    def _delete(self, model: Kind, key: int) -> bool:
        """Delete from the model; return whether that was a change."""
        row = self.rows(model).get(key)
        if row is None or row.mark is not None:
            return False
        row.mark = self.now
        for child in self.extensions.values():
            if model is User and child.user == key and child.mark is None:
                child.mark = self.now
        return True

    def _pick(self, data: st.DataObject, model: Kind, *, marked: bool) -> int:
        """Return a key, most often of a row that is deleted, or of one that is not."""
        rows = self.rows(model).items()
        keys = [key for key, row in rows if (row.mark is not None) is marked]
        return data.draw(st.sampled_from([*keys, *keys, *keys, 1, 2, 3]))

    @rule(model=st.sampled_from(KINDS), data=st.data())
    def delete(self, model: Kind, data: st.DataObject) -> None:
        """Delete by key."""
        key = self._pick(data, model, marked=False)
        gone = self.database.do(lambda session: soft_delete(session, model, key))
        assert gone is self._delete(model, key)
        self.outcomes.add(("delete", gone))

    @rule(model=st.sampled_from(KINDS), data=st.data())
    def delete_instance(self, model: Kind, data: st.DataObject) -> None:
        """Delete what `get` returns, if it returns something."""
        key = self._pick(data, model, marked=False)

        async def delete(session: AsyncSession) -> bool:
            row = await session.get(model, key)
            if row is not None:
                await session.delete(row)
                await session.flush()
            return row is not None

        assert self.database.do(delete) is self._delete(model, key)

    @rule(name=NAMES, by_table=st.booleans())
    def delete_all_with_a_name(self, name: str, *, by_table: bool) -> None:
        """Delete by a statement."""
        users = Base.metadata.tables["users"]
        statement = (
            sa.delete(users).where(users.c.email == name)
            if by_table
            else sa.delete(User).where(User.email == name)
        )
        self.database.do(lambda session: session.execute(statement))
        for key, row in self.users.items():
            if row.name == name:
                self._delete(User, key)

    @rule(model=st.sampled_from(KINDS), data=st.data())
    def restore(self, model: Kind, data: st.DataObject) -> None:
        """Restore a row with what went with it, unless something is in the way."""
        key = self._pick(data, model, marked=True)

        async def try_to_restore(session: AsyncSession) -> bool | None:
            try:
                return await restore(session, model, key)
            except ConflictError:
                return None

        row = self.rows(model).get(key)
        if row is None or row.mark is None:
            assert self.database.do(try_to_restore) is False
            self.outcomes.add(("restore", False))
            return
        children = [
            child
            for child in self.extensions.values()
            if model is User and child.user == key
            if child.mark is not None and child.mark[0] == row.mark[0]
        ]
        # Two that had the same number one after the other are in each other's way.
        names = {child.name for child in children}
        possible = (
            not self.is_taken(model, row.name)
            and not any(self.is_taken(Extension, name) for name in names)
            and len(names) == len(children)
            and (model is User or self.owner_is_live(row))
        )
        expected = True if possible else None
        assert self.database.do(try_to_restore) is expected
        self.outcomes.add(("restore", expected))
        for each in (row, *children) if possible else ():
            each.mark = None

    @rule(model=st.sampled_from(KINDS), data=st.data())
    def purge(self, model: Kind, data: st.DataObject) -> None:
        """Purge a deleted row with its children, and no live one."""
        key = self._pick(data, model, marked=True)
        gone = self.database.do(lambda s: purge(s, model, model.id == key))
        row = self.rows(model).get(key)
        expected = row is not None and row.mark is not None
        assert gone == expected
        self.outcomes.add(("purge", expected))
        if expected:
            del self.rows(model)[key]
            children = [n for n, row in self.extensions.items() if row.user == key]
            for child in children if model is User else ():
                del self.extensions[child]

    @rule(
        value=st.sampled_from(["x", "y"]), options=st.sampled_from([{}, only_deleted])
    )
    def change_all(self, value: str, options: Mapping[str, Any]) -> None:
        """Change all users that the options leave."""
        statement = sa.update(User).values(name=value)
        self.database.do(lambda s: s.execute(statement, execution_options=options))
        for row in self.users.values():
            if (row.mark is not None) == bool(options):
                row.value = value

    @invariant()
    def every_way_of_asking_gives_what_the_model_says(self) -> None:
        """Compare queries, `get`, and what the instances say."""
        seen = self.database.do(ask_in_every_way)
        for model in KINDS:
            rows = self.rows(model)
            live = {key for key, row in rows.items() if row.mark is None}
            assert seen[model] == (live, rows.keys() - live, live, rows)


Answer: TypeAlias = tuple[set[int], set[int], set[int], dict[int, Row]]


async def ask_in_every_way(
    session: AsyncSession,
) -> dict[Kind, Answer]:
    """Return what queries find by default and deleted, what `get` gets, and all."""
    seen: dict[Kind, Answer] = {}
    for model in KINDS:
        keys = select(model.id)
        instances = await session.scalars(
            select(model), execution_options=include_deleted
        )
        rows = dict(map(row_of, instances))
        seen[model] = (
            {*await session.scalars(keys)},
            {*await session.scalars(keys, execution_options=only_deleted)},
            {key for key in (1, 2, 3) if await session.get(model, key) is not None},
            rows,
        )
    return seen


def row_of(instance: Base) -> tuple[int, Row]:
    """Return the key of an instance, and what the instance says of its row."""
    if isinstance(instance, User):
        row = Row(instance.email, mark(instance), value=instance.name)
        return instance.id, row
    assert isinstance(instance, Extension)
    return instance.id, Row(instance.number, mark(instance), user=instance.user_id)


def mark(row: User | Extension) -> Mark:
    """Return a row's mark, in UTC."""
    if row.deleted_at is None:
        assert row.deleted_by is None
        return None
    return row.deleted_at.replace(tzinfo=UTC), row.deleted_by or ""


@pytest.mark.parametrize("one_session", [True, False])
def test_any_sequence_of_operations_leaves_what_a_plain_model_says(
    database_url: str, *, one_session: bool
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        platform = runner.run(stack.enter_async_context(telephony(database_url)))

        class Bound(Machine):
            """The machine on this test's database."""

            database = Database(runner, platform, one_session=one_session)
            outcomes: ClassVar[set[tuple[str, object]]] = set()

        limits = settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(Bound, settings=limits)
        finally:
            if Bound.database.session is not None:
                runner.run(Bound.database.session.close())
            runner.run(stack.aclose())
    assert Bound.outcomes == {
        *(
            (operation, outcome)
            for operation in ("create", "delete", "restore", "purge")
            for outcome in (True, False)
        ),
        ("restore", None),
    }
