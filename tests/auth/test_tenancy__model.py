"""Whatever two tenants do in whatever order, each sees what a model of its own says."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import copy_context
from typing import ClassVar, TypeVar
from uuid import UUID

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

from snippets.auth.tenancy import bypass_tenancy, set_tenant
from snippets.auth.tenant_boundary import BoundaryError
from tests.support.tenants import A, B, Base, Extension, Tenants, User, tenants

T = TypeVar("T")

TENANTS = st.sampled_from([A, B])
KEYS = st.integers(1, 3)
NAMES = st.sampled_from(["ada", "grace"])
USERS = Base.metadata.tables["users"]


class Machine(RuleBasedStateMachine):
    """The users of two tenants, in a database and in a plain dictionary of each."""

    runner: ClassVar[asyncio.Runner]
    platform: ClassVar[Tenants]
    one_session: ClassVar[bool]
    outcomes: ClassVar[set[tuple[str, bool]]]
    """What has happened in any run."""

    def __init__(self) -> None:
        """Begin with empty tables."""
        super().__init__()
        self.session = self.platform.sessions() if self.one_session else None
        self.users: dict[UUID, dict[int, tuple[str, str]]] = {A: {}, B: {}}
        with bypass_tenancy():
            self.do(lambda session: session.execute(sa.delete(Extension)))
            self.do(lambda session: session.execute(sa.delete(User)))

    def teardown(self) -> None:
        """Close the session."""
        if self.session is not None:
            self.runner.run(self.session.close())

    def do(self, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Do something in the current scope, and commit it."""

        async def run() -> T:
            session = self.session or self.platform.sessions()
            try:
                result = await act(session)
                await session.commit()
                return result
            finally:
                if self.session is None:
                    await session.close()
                else:
                    await session.rollback()

        return self.runner.run(run(), context=copy_context())

    @initialize()
    def each_tenant_has_a_user(self) -> None:
        """Begin with something that can leak."""
        self.create(A, 1, "ada", "unit of work")
        self.create(B, 2, "ada", "unit of work")
        self.seize(A, 2)

    @rule(
        tenant=TENANTS,
        key=KEYS,
        name=NAMES,
        how=st.sampled_from(["unit of work", "class", "table"]),
    )
    def create(self, tenant: UUID, key: int, name: str, how: str) -> None:
        """A key that no tenant has, and a name that this one has not."""

        async def create(session: AsyncSession) -> bool:
            try:
                async with session.begin_nested():
                    if how == "unit of work":
                        session.add(User(id=key, name=name))
                    else:
                        target = User if how == "class" else USERS
                        row = {"id": key, "name": name}
                        await session.execute(sa.insert(target).values(row))
            except IntegrityError:
                return False
            return True

        own = self.users[tenant]
        taken = any(key in users for users in self.users.values())
        possible = not taken and name not in {one for one, _ in own.values()}
        with set_tenant(tenant):
            assert self.do(create) is possible
        self.outcomes.add(("create", possible))
        if possible:
            own[key] = (name, "")

    @rule(tenant=TENANTS, key=KEYS, desk=st.sampled_from("xyz"))
    def change_by_key(self, tenant: UUID, key: int, desk: str) -> None:
        """Change what `get` returns, if it returns something."""

        async def change(session: AsyncSession) -> bool:
            user = await session.get(User, key)
            if user is not None:
                user.desk = desk
            return user is not None

        own = self.users[tenant]
        with set_tenant(tenant):
            assert self.do(change) is (key in own)
        self.outcomes.add(("change", key in own))
        if key in own:
            own[key] = (own[key][0], desk)

    @rule(tenant=TENANTS, desk=st.sampled_from("xyz"), by_table=st.booleans())
    def change_all(self, tenant: UUID, desk: str, *, by_table: bool) -> None:
        """Change by a statement without a condition."""
        update = sa.update(USERS if by_table else User).values(desk=desk)
        with set_tenant(tenant):
            self.do(lambda session: session.execute(update))
        own = self.users[tenant]
        own.update({key: (name, desk) for key, (name, _) in own.items()})

    @rule(tenant=TENANTS, name=NAMES, by_table=st.booleans())
    def delete(self, tenant: UUID, name: str, *, by_table: bool) -> None:
        """Delete whoever has the name."""
        by_class = sa.delete(User).where(User.name == name)
        in_table = sa.delete(USERS).where(USERS.c.name == name)
        with set_tenant(tenant):
            self.do(lambda session: session.execute(in_table if by_table else by_class))
        own = self.users[tenant]
        self.users[tenant] = {k: user for k, user in own.items() if user[0] != name}

    @rule(tenant=TENANTS, key=KEYS)
    def seize(self, tenant: UUID, key: int) -> None:
        """Try to write what was loaded for all tenants."""

        async def seize(session: AsyncSession) -> bool:
            with bypass_tenancy():
                user = await session.get(User, key)
            if user is None:
                return True
            user.desk = "seized"
            try:
                await session.flush()
            except BoundaryError:
                await session.rollback()
                return False
            return True

        own = self.users[tenant]
        of_other = key in self.users[B if tenant == A else A]
        with set_tenant(tenant):
            assert self.do(seize) is not of_other
        self.outcomes.add(("seize", not of_other))
        if key in own:
            own[key] = (own[key][0], "seized")

    @invariant()
    def each_tenant_sees_its_own_in_every_way(self) -> None:
        """Compare instances, columns, tables, counts and `get` with the model."""

        async def ask(session: AsyncSession) -> tuple[object, ...]:
            users = (await session.scalars(select(User))).all()
            rows = await session.execute(select(USERS.c.id, USERS.c.name, USERS.c.desk))
            count = select(sa.func.count()).select_from(User)
            return (
                {user.id: (user.name, user.desk) for user in users},
                {row.id: (row.name, row.desk) for row in rows},
                await session.scalar(count),
                {key for key in (1, 2, 3) if await session.get(User, key)},
            )

        for tenant, own in self.users.items():
            with set_tenant(tenant):
                assert self.do(ask) == (own, own, len(own), own.keys())


@pytest.mark.parametrize("one_session", [True, False])
def test_any_sequence_of_two_tenants_leaves_each_what_its_own_model_says(
    database_url: str, *, one_session: bool
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        platform = runner.run(stack.enter_async_context(tenants(database_url)))

        class Bound(Machine):
            """The machine on this test's database."""

            outcomes: ClassVar[set[tuple[str, bool]]] = set()

        Bound.runner, Bound.platform = runner, platform
        Bound.one_session = one_session
        limits = settings(
            max_examples=6,
            stateful_step_count=10,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(Bound, settings=limits)
        finally:
            runner.run(stack.aclose())
    assert Bound.outcomes == {
        (operation, outcome)
        for operation in ("create", "change", "seize")
        for outcome in (True, False)
    }
