"""A DELETE sets values instead, in the children first, and once.

What soft deletion makes of it, with constraints and two transactions at once, is shown
by the tests of soft deletion.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from sqlalchemy.orm import relationship as related

from catalogue.plugin import Proof
from snippets.database import delete_as_update
from snippets.database.async_session import create_engine_and_sessions
from snippets.database.delete_as_update import DeleteAsUpdate, family, has_key
from snippets.database.delete_as_update_naive import (
    NaiveReleasedMixin,
    release_instead_of_deleting,
)
from tests.support.counters import count_sql
from tests.support.databases import create_tables

Sessions: TypeAlias = async_sessionmaker[AsyncSession]
Delete: TypeAlias = Callable[[AsyncSession], Awaitable[object]]


class Base(DeclarativeBase):
    """The tables of these tests."""


class ReleasedMixin:
    """Which deletion released a row, if one did."""

    released: Mapped[int | None]


class User(ReleasedMixin, Base):
    """A user, whose extensions go along."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    extensions: Mapped[list["Extension"]] = related(
        cascade="all, delete-orphan", passive_deletes=True, order_by="Extension.number"
    )


class Extension(ReleasedMixin, Base):
    """An extension, with a key of two parts, whose devices go along."""

    __tablename__ = "extensions"

    tenant: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    devices: Mapped[list["Device"]] = related(cascade="all", passive_deletes=True)


class Device(ReleasedMixin, Base):
    """A telephone at an extension."""

    __tablename__ = "devices"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["tenant", "number"], ["extensions.tenant", "extensions.number"]
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    number: Mapped[str]


class Note(Base):
    """A row that is deleted as ever."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)


def in_use(row: type[ReleasedMixin]) -> sa.ColumnElement[bool]:
    return row.released.is_(None)


USERS = Base.metadata.tables["users"]


class Numbers:
    """What a deletion sets: its number, so that a test can tell them apart."""

    def __init__(self) -> None:
        """Begin with the first."""
        self.last = 0

    def __call__(self) -> Mapping[str, object]:
        """Count a deletion."""
        self.last += 1
        return {"released": self.last}


@pytest.fixture
def numbers() -> Numbers:
    """The deletions of this test."""
    return Numbers()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Users 1 and 2, each with an extension that has a device."""
    engine, _ = create_engine_and_sessions(database_url)
    await create_tables(engine, Base.metadata)
    async with AsyncSession(engine) as session:
        session.add(Note(id=1))
        for n in (1, 2):
            device = Device(id=n)
            extension = Extension(tenant=7, number=f"100{n}", devices=[device])
            session.add(User(id=n, name=f"user {n}", extensions=[extension]))
        await session.commit()
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(engine: AsyncEngine, numbers: Numbers) -> AsyncIterator[AsyncSession]:
    """A session that releases instead of deleting."""

    class Releasing(Session):
        """A class for the listeners alone."""

    DeleteAsUpdate(ReleasedMixin, in_use, numbers).listen(Releasing)
    async with AsyncSession(
        engine, sync_session_class=Releasing, expire_on_commit=False
    ) as session:
        yield session


async def released(session: AsyncSession) -> list[list[int | None]]:
    """Return which deletion released each user, each extension and each device."""
    columns = {
        User.released: User.id,
        Extension.released: Extension.number,
        Device.released: Device.id,
    }
    return [
        [*await session.scalars(select(column).order_by(key))]
        for column, key in columns.items()
    ]


FIRST_ONLY = [[1, None]] * 3
"""The first user, extension and device are released by the first deletion."""


async def _by_instance(session: AsyncSession) -> None:
    await session.delete(await session.get_one(User, 1))
    await session.flush()


async def _by_instance_with_children(session: AsyncSession) -> None:
    user = await session.get_one(User, 1)
    await session.refresh(user, ["extensions"])
    await session.delete(user)
    await session.flush()


async def _by_class(session: AsyncSession) -> None:
    await session.execute(sa.delete(User).where(User.id == 1))


async def _by_table(session: AsyncSession) -> None:
    await session.execute(sa.delete(USERS).where(USERS.c.id == 1))


async def _by_children(session: AsyncSession) -> None:
    statement = sa.delete(User).where(User.extensions.any(Extension.number == "1001"))
    await session.execute(statement)


async def _using_another_table(session: AsyncSession) -> None:
    statement = sa.delete(User).where(
        Extension.user_id == User.id, Extension.number == "1001"
    )
    await session.execute(statement)


async def _by_parameters(session: AsyncSession) -> None:
    statement = sa.delete(User).where(User.name == sa.bindparam("name"))
    await session.execute(statement, {"name": "user 1"})


DELETES: list[Delete] = [
    _by_instance,
    _by_instance_with_children,
    _by_class,
    _by_table,
    _by_children,
    _using_another_table,
    _by_parameters,
]


@pytest.mark.parametrize("delete", DELETES)
async def test_a_delete_sets_values_in_the_row_and_in_all_below_it(
    session: AsyncSession, delete: Delete, numbers: Numbers
) -> None:
    await delete(session)
    assert await released(session) == FIRST_ONLY
    assert numbers.last == 1


@pytest.mark.parametrize("delete", DELETES)
async def test_a_row_that_is_not_live_keeps_its_values(
    session: AsyncSession, delete: Delete
) -> None:
    await _by_class(session)
    await delete(session)
    assert await released(session) == FIRST_ONLY


DEVICES = Base.metadata.tables["devices"]


@pytest.mark.parametrize(
    "statement",
    [
        sa.delete(Device).where(Device.id == sa.bindparam("key")),
        sa.delete(DEVICES).where(DEVICES.c.id == sa.bindparam("key")),
    ],
    ids=["class", "table"],
)
async def test_several_sets_of_parameters_are_refused(
    session: AsyncSession, statement: sa.Delete
) -> None:
    with pytest.raises(InvalidRequestError, match="one set of parameters"):
        await session.execute(statement, [{"id": 1, "key": 1}, {"id": 2, "key": 2}])
    assert await released(session) == [[None, None]] * 3


LIGHT: Any = sa.table("users", sa.column("id"))
COPY: Any = USERS.to_metadata(sa.MetaData())
ALIAS: Any = USERS.alias()


@pytest.mark.parametrize("physical", [False, True])
@pytest.mark.parametrize(
    "target",
    [ALIAS, ALIAS.alias(), aliased(User), LIGHT, COPY, LIGHT.alias(), COPY.alias()],
)
async def test_a_delete_of_an_alias_or_of_a_double_is_refused(
    session: AsyncSession, target: sa.TableClause, *, physical: bool
) -> None:
    with pytest.raises(InvalidRequestError, match="not a double"):
        await session.execute(
            sa.delete(target), execution_options={"physical": physical}
        )
    assert await released(session) == [[None, None]] * 3


@pytest.mark.parametrize("physical", [False, True])
async def test_more_rows_than_one_statement_takes_are_deleted_in_batches(
    session: AsyncSession, monkeypatch: pytest.MonkeyPatch, *, physical: bool
) -> None:
    monkeypatch.setattr(delete_as_update, "AT_ONCE", 4)
    session.add_all(
        User(id=n, extensions=[Extension(tenant=8, number=str(n))])
        for n in range(10, 18)
    )
    await session.flush()
    if physical:
        await session.execute(sa.delete(User))
    options = {"physical": physical}
    many = sa.delete(User).where(User.id >= 10)
    gone = await session.scalars(many.returning(User.id), execution_options=options)
    assert sorted(gone.all()) == [*range(10, 18)]
    few = sa.delete(Extension).where(Extension.tenant == 7)
    result = await session.execute(few, execution_options=options)
    assert isinstance(result, sa.CursorResult)
    assert result.rowcount == 2
    numbers = select(Extension.number).where(Extension.tenant == 8, in_use(Extension))
    assert (await session.scalars(numbers)).all() == []


async def test_more_rows_than_a_driver_takes_parameters_go_at_once(
    session: AsyncSession,
) -> None:
    rows = [{"id": n, "name": "many"} for n in range(1_000, 34_000)]
    await session.execute(sa.insert(User), rows)
    for options in ({}, {"physical": True}):
        many = sa.delete(User).where(User.name == "many")
        result: Any = await session.execute(many, execution_options=options)
        assert result.rowcount == 33_000


async def test_as_many_keys_of_two_parts_as_a_statement_takes_are_no_problem(
    session: AsyncSession,
) -> None:
    count = delete_as_update.AT_ONCE // 2 + 1
    rows = [{"tenant": 9, "number": str(n), "user_id": 1} for n in range(count)]
    await session.execute(sa.insert(Extension), rows)
    many = sa.delete(Extension).where(Extension.tenant == 9)
    result: Any = await session.execute(many)
    assert result.rowcount == count


async def test_the_instances_in_the_session_show_the_values(
    session: AsyncSession,
) -> None:
    user = await session.get_one(User, 1)
    await session.refresh(user, ["extensions"])
    await _by_class(session)
    assert (user.released, user.extensions[0].released) == (1, 1)


async def test_a_flush_is_one_deletion(session: AsyncSession, numbers: Numbers) -> None:
    for user in (await session.scalars(select(User))).all():
        await session.delete(user)
    await session.flush()
    assert await released(session) == [[1, 1]] * 3
    assert numbers.last == 1


async def test_a_delete_returns_what_it_is_asked_for(session: AsyncSession) -> None:
    first = sa.delete(User).where(User.id == 1)
    assert (await session.scalars(first.returning(User.name))).all() == ["user 1"]
    assert (await session.scalars(first.returning(User.name))).all() == []
    second = sa.delete(User).where(User.id == 2)
    everything = second.returning(User, User.id + 40, sa.true())
    row = (await session.execute(everything)).one()
    assert (row[0].name, row[0].released, row[1], row[2]) == ("user 2", 3, 42, True)
    table = sa.delete(Base.metadata.tables["devices"]).returning(sa.text("id"))
    assert (await session.scalars(table)).all() == []


async def test_a_delete_without_children_tells_how_many_rows_it_found(
    session: AsyncSession,
) -> None:
    by_number = sa.delete(Device).where(Device.number == sa.bindparam("n"))
    result = await session.execute(by_number, {"n": "1001"})
    assert isinstance(result, sa.CursorResult)
    assert result.rowcount == 1
    result = await session.execute(by_number, {"n": "1001"})
    assert isinstance(result, sa.CursorResult)
    assert result.rowcount == 0


async def test_a_delete_of_another_model_is_as_ever(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Note, 1))
    await session.flush()
    assert await session.get(Note, 1) is None
    session.add(Note(id=2))
    await session.execute(sa.delete(Note))
    await session.execute(sa.delete(Base.metadata.tables["notes"]))
    assert await session.get(Note, 2, populate_existing=True) is None


async def test_a_physical_delete_removes_what_is_not_live_and_nothing_else(
    session: AsyncSession,
) -> None:
    await _by_class(session)
    everyone = sa.delete(User).returning(User.id)
    physical = {"physical": True}
    gone = await session.scalars(everyone, execution_options=physical)
    assert gone.all() == [1]
    assert await released(session) == [[None]] * 3


async def test_a_physical_delete_takes_no_child_of_what_is_live(
    session: AsyncSession,
) -> None:
    await session.execute(sa.delete(Extension))
    await session.execute(sa.delete(User), execution_options={"physical": True})
    assert await released(session) == [[None, None], [1, 1], [1, 1]]


async def _with_an_orphan(session: AsyncSession) -> User:
    """Return a user whose only extension has been taken away, but is not flushed."""
    user = User(id=3, extensions=[Extension(tenant=7, number="1003")])
    session.add(user)
    await session.commit()
    user.name = "changed"
    user.extensions.clear()
    return user


async def test_an_orphan_is_refused_and_so_is_the_flush(session: AsyncSession) -> None:
    await _with_an_orphan(session)
    with pytest.raises(InvalidRequestError, match="Extension is an orphan"):
        await session.flush()
    await session.rollback()
    assert await session.scalar(select(User.name).where(User.id == 3)) == ""
    third = select(Extension.user_id).where(Extension.number == "1003")
    assert await session.scalar(third) == 3


async def test_an_orphan_does_not_go_with_a_physical_delete(
    session: AsyncSession,
) -> None:
    await _with_an_orphan(session)
    session.autoflush = False
    physical = {"physical": True}
    with pytest.raises(InvalidRequestError, match="Extension is an orphan"):
        await session.execute(sa.delete(Device), execution_options=physical)


async def test_an_orphan_is_refused_after_a_physical_delete_has_failed(
    session: AsyncSession,
) -> None:
    wrong = sa.delete(Device).where(sa.text("nowhere = 1"))
    with pytest.raises(sa.exc.DBAPIError):
        await session.execute(wrong, execution_options={"physical": True})
    await session.rollback()
    await _with_an_orphan(session)
    with pytest.raises(InvalidRequestError, match="Extension is an orphan"):
        await session.flush()


def test_a_family_is_listed_from_the_youngest_to_the_eldest() -> None:
    models = [model for model, _ in family(ReleasedMixin, User, (), in_use)]
    assert models == [Device, Extension, User]


async def test_a_part_of_a_key_names_no_row(session: AsyncSession) -> None:
    found = select(Extension.number).where(*has_key(Extension, (7, "1001")))
    assert (await session.scalars(found)).all() == ["1001"]
    with pytest.raises(ValueError, match="shorter"):
        has_key(Extension, 7)
    with pytest.raises(ValueError, match="longer"):
        has_key(User, (1, 2))


@pytest.mark.backends("postgresql")
async def test_a_delete_in_a_cte_is_not_covered(session: AsyncSession) -> None:
    gone = sa.delete(Device).where(Device.id == 1).returning(Device.id).cte()
    assert (await session.scalars(select(gone.c.id))).all() == [1]
    assert (await session.scalars(select(Device.id))).all() == [2]


async def test_a_delete_is_one_update_and_with_children_one_for_each_model(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    device = await session.get_one(Device, 1)
    for operation, delete, verbs in (
        ("delete", sa.delete(Device).where(Device.id == 2), ["UPDATE"]),
        (
            "delete with two levels of children",
            sa.delete(User),
            ["SELECT", "UPDATE", "UPDATE", "UPDATE"],
        ),
    ):
        with count_sql(engine) as statements:
            await session.execute(delete)
        assert [text.split()[0] for text in statements.texts] == verbs
        proof.cost(operation, statements=len(verbs))
    with count_sql(engine) as statements:
        await session.delete(device)
        await session.flush()
    assert [text.split()[0] for text in statements.texts] == ["UPDATE"]
    proof.cost("session.delete and flush", statements=1)


# The naive version


class NaiveBase(DeclarativeBase):
    """The tables of the naive version."""


class Desk(NaiveReleasedMixin, NaiveBase):
    """A desk, with telephones."""

    __tablename__ = "desks"

    id: Mapped[int] = mapped_column(primary_key=True)
    telephones: Mapped[list["Telephone"]] = related(
        cascade="all, delete-orphan", passive_deletes=True
    )


class Telephone(NaiveReleasedMixin, NaiveBase):
    """A telephone at a desk."""

    __tablename__ = "telephones"

    id: Mapped[int] = mapped_column(primary_key=True)
    desk_id: Mapped[int] = mapped_column(sa.ForeignKey("desks.id"))


@pytest.fixture
async def naive(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session with the naive listener, and a desk with a telephone."""

    class Releasing(Session):
        """A class for the listener alone."""

    release_instead_of_deleting(Releasing)
    await create_tables(engine, NaiveBase.metadata)
    async with AsyncSession(
        engine, sync_session_class=Releasing, expire_on_commit=False
    ) as session:
        session.add(Desk(id=1, telephones=[Telephone(id=1)]))
        await session.commit()
        session.expunge_all()
        yield session


async def test_the_naive_listener_does_not_see_a_delete_statement(
    naive: AsyncSession, proof: Proof
) -> None:
    await naive.execute(sa.delete(Telephone))
    assert (await naive.scalars(select(Telephone.id))).all() == []
    proof.breaks("A DELETE statement", "removes the rows")


async def test_the_naive_listener_leaves_the_children_live(
    naive: AsyncSession, proof: Proof
) -> None:
    await naive.delete(await naive.get_one(Desk, 1))
    await naive.flush()
    assert (await naive.get_one(Desk, 1)).released_at is not None
    assert (await naive.get_one(Telephone, 1)).released_at is None
    proof.breaks("session.delete of a parent with passive_deletes", "marks no child")


async def test_the_naive_listener_marks_again_what_is_marked(
    naive: AsyncSession, proof: Proof
) -> None:
    desk = await naive.get_one(Desk, 1)
    await naive.delete(desk)
    await naive.flush()
    first = desk.released_at
    await naive.delete(desk)
    await naive.flush()
    assert desk.released_at != first
    proof.breaks("A second deletion", "overwrites the first mark")


async def test_the_naive_listener_loses_an_orphan(
    naive: AsyncSession, proof: Proof
) -> None:
    desk = await naive.get_one(Desk, 1)
    await naive.refresh(desk, ["telephones"])
    desk.telephones.clear()
    await naive.flush()
    assert (await naive.scalars(select(Telephone.id))).all() == []
    proof.breaks("Taking a child out of a delete-orphan collection", "removes its row")
