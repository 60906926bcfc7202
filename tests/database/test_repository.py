"""The repository keeps its promises on every kind of key, filter, page and write."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import assert_type, get_type_hints

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    declared_attr,
    load_only,
    mapped_column,
    relationship,
    selectinload,
    validates,
)

from catalogue.plugin import Proof
from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.conflict import ConflictError
from snippets.database.filters import AnyOf, Contains, FieldError
from snippets.database.repository import BaseRepository, Page
from snippets.database.repository_naive import NaiveRepository
from tests.support.counters import count_sql
from tests.support.databases import create_tables


class Base(DeclarativeBase):
    """Names every constraint."""

    metadata = sa.MetaData(
        naming_convention={
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        }
    )


class User(Base):
    """A user: an integer key, and every column that the repository knows by name."""

    __tablename__ = "users"
    __table_args__ = (sa.UniqueConstraint("tenant_id", "email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    email: Mapped[str]
    name: Mapped[str | None]
    level: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    created_by: Mapped[str | None]
    revision: Mapped[str] = mapped_column(
        server_default="new", onupdate=sa.literal_column("'changed'")
    )
    deleted_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    deleted_by: Mapped[str | None]
    extensions: Mapped[list["Extension"]] = relationship(viewonly=True)


class Extension(Base):
    """An extension: a key of two columns, and an attribute named unlike its column."""

    __tablename__ = "extensions"

    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str | None] = mapped_column("ext_label")
    user_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))


class Call(Base):
    """A call: a UUID as the key."""

    __tablename__ = "calls"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    label: Mapped[str | None]


class Voicemail(Base):
    """A message: a key whose attribute is named unlike its column."""

    __tablename__ = "voicemails"

    id: Mapped[int] = mapped_column("voicemail_id", primary_key=True)
    label: Mapped[str | None]
    deleted_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


class Setting(Base):
    """A telephone's setting: columns named like parameters, and what writes bypass."""

    __tablename__ = "settings"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    limit: Mapped[int] = mapped_column(default=0)
    values: Mapped[str | None]

    @validates("limit")
    def _refuse(self, _: str, limit: int) -> int:
        raise AssertionError(limit)


class Device(Base):
    """A telephone: several kinds share one table."""

    __tablename__ = "devices"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, str]:
        """Tell the kinds apart."""
        return {"polymorphic_on": "kind", "polymorphic_identity": "device"}


class Person(Base):
    """A person."""

    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)


class Agent(Person):
    """A person who answers calls: one row in each of two tables."""

    __tablename__ = "agents"

    id: Mapped[int] = mapped_column(sa.ForeignKey("people.id"), primary_key=True)


class UserRepository(BaseRepository[User]):
    """The users, with a finder of their own."""

    def __init__(self, session: AsyncSession) -> None:
        """Work in the transaction of `session`."""
        super().__init__(User, session)

    async def find_by_email(self, tenant_id: int, email: str) -> User | None:
        """Return the user of a tenant who has this address."""
        return await self.get_by({"tenant_id": tenant_id, "email": email})


NAMES = ["Ada", "Grace", "Edsger", "Barbara", "Alan"]


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session on a database with five users of tenant 7, which it does not hold."""
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        await connection.execute(
            sa.insert(User),
            [
                {"tenant_id": 7, "email": f"{name.lower()}@example.com", "name": name}
                for name in NAMES
            ],
        )
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    """The repository of the five users, whose keys are 1 to 5."""
    return UserRepository(session)


def keys(page: Page[User]) -> list[int]:
    """Return the keys of a page's users, in its order."""
    return [user.id for user in page.items]


# --- types and subclasses


async def test_results_have_the_type_of_the_model(users: UserRepository) -> None:
    assert_type(await users.get(1), User | None)
    assert_type(await users.get_by({"id": 1}), User | None)
    page = await users.list()
    assert_type(page, Page[User])
    assert_type(page.items[0], User)
    assert_type(await users.count(), int)
    assert_type(await users.exists(), bool)
    user = await users.create(tenant_id=7, email="linus@example.com")
    assert_type(user, User)
    assert_type(await users.update(user.id, name="Linus"), User | None)
    assert_type(await users.soft_delete(user.id), bool)
    assert_type(await users.delete(user.id), bool)
    assert type(user) is User


def test_annotations_survive_a_method_named_list() -> None:
    methods = [
        name
        for name, member in vars(BaseRepository).items()
        if callable(member) and not name.startswith("_")
    ]

    assert len(methods) == 9
    for name in methods:
        assert "return" in get_type_hints(getattr(BaseRepository, name))


async def test_a_subclass_adds_finders_of_its_own(users: UserRepository) -> None:
    found = await users.find_by_email(7, "grace@example.com")

    assert found is not None
    assert found.name == "Grace"
    assert await users.find_by_email(8, "grace@example.com") is None


@pytest.mark.parametrize("model", [Device, Agent])
async def test_a_model_that_does_not_have_one_table_to_itself_is_refused(
    session: AsyncSession, model: type[Base]
) -> None:
    with pytest.raises(TypeError, match="one table to itself"):
        BaseRepository(model, session)


# --- keys


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (Call, {"id": uuid.UUID(int=1)}),
        (Extension, {"tenant_id": 7, "number": 1001}),
        (Voicemail, {"id": 1}),
    ],
)
async def test_every_kind_of_key_finds_its_row_and_no_other(
    session: AsyncSession,
    model: type[Call | Extension | Voicemail],
    values: dict[str, object],
) -> None:
    rows: BaseRepository[Call | Extension | Voicemail] = BaseRepository(model, session)
    parts = tuple(values.values())
    key = parts if len(parts) > 1 else parts[0]
    other = {**values, list(values)[-1]: 2 if model is not Call else uuid.UUID(int=2)}
    await rows.create(**values, label="first")
    await rows.create(**other, label="second")

    updated = await rows.update(key, label="changed")
    session.expunge_all()
    found = await rows.get(key)
    deleted = await rows.delete(key)

    assert updated is not None
    assert found is not None
    assert updated.label == found.label == "changed"
    assert deleted
    assert await rows.get(key) is None
    assert [row.label for row in (await rows.list()).items] == ["second"]


async def test_a_part_of_a_key_reaches_no_row(session: AsyncSession) -> None:
    extensions = BaseRepository(Extension, session)
    await extensions.create(tenant_id=7, number=1)
    await extensions.create(tenant_id=7, number=2)

    for key in (7, (7,), (7, 1, 1), [7, 1], None):
        for attempt in (extensions.get, extensions.delete):
            with pytest.raises(ValueError, match="key of another length"):
                await attempt(key)
        with pytest.raises(ValueError, match="key of another length"):
            await extensions.update(key, label="x")

    assert await extensions.count({"label": None}) == 2


async def test_get_reads_a_row_anew_whose_state_a_commit_has_expired(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    async with AsyncSession(engine, expire_on_commit=True) as other:
        users = UserRepository(other)
        ada = await users.get(1)
        await other.commit()
        await UserRepository(session).update(1, name="Countess")
        await session.commit()

        assert await users.get(1) is ada
        assert ada is not None
        assert ada.name == "Countess"


# --- list, count, exists, get_by


async def test_a_list_is_ordered_by_the_key_unless_told_otherwise(
    users: UserRepository,
) -> None:
    assert keys(await users.list()) == [1, 2, 3, 4, 5]
    assert keys(await users.list(order_by="name")) == [1, 5, 4, 3, 2]
    assert keys(await users.list(order_by="-level,-id")) == [5, 4, 3, 2, 1]
    assert keys(await users.list(order_by="-level")) == [1, 2, 3, 4, 5]


async def test_paging_shows_every_row_once_while_rows_change(
    users: UserRepository,
) -> None:
    first = await users.list(order_by="level", limit=2)
    await users.update(1, name="Ada Lovelace")
    second = await users.list(order_by="level", limit=2, offset=2)
    await users.update(3, name="Edsger Dijkstra")
    third = await users.list(order_by="level", limit=2, offset=4)

    assert [keys(page) for page in (first, second, third)] == [[1, 2], [3, 4], [5]]
    assert [page.has_more for page in (first, second, third)] == [True, True, False]


async def test_a_page_that_ends_with_the_last_row_has_no_more(
    users: UserRepository,
) -> None:
    page = await users.list(limit=5)

    assert keys(page) == [1, 2, 3, 4, 5]
    assert not page.has_more


async def test_a_page_past_the_end_is_empty(users: UserRepository) -> None:
    page = await users.list(offset=5, with_total=True)

    assert (keys(page), page.has_more, page.total) == ([], False, 5)


async def test_the_total_is_counted_only_when_asked_and_over_all_pages(
    users: UserRepository,
) -> None:
    some = {"id": [1, 2, 3]}

    assert (await users.list(some, limit=1)).total is None
    assert (await users.list(some, limit=1, with_total=True)).total == 3


async def test_a_limit_out_of_bounds_is_refused(
    users: UserRepository, engine: AsyncEngine
) -> None:
    with count_sql(engine) as statements:
        for limit in (0, -1, 101):
            with pytest.raises(ValueError, match="1 to 100"):
                await users.list(limit=limit)

    assert statements.total == 0


async def test_a_negative_offset_is_refused(users: UserRepository) -> None:
    with pytest.raises(ValueError, match="offset 0 or more"):
        await users.list(offset=-1)


async def test_a_subclass_sets_its_own_bound(session: AsyncSession) -> None:
    class Brief(BaseRepository[User]):
        max_limit = 3

    users = Brief(User, session)

    assert len((await users.list()).items) == 3
    assert len((await users.list(limit=3)).items) == 3
    with pytest.raises(ValueError, match="1 to 3"):
        await users.list(limit=4)


async def test_all_options_of_a_list_apply_together(users: UserRepository) -> None:
    await users.soft_delete(2)
    await users.soft_delete(4)
    not_ada = User.id > 1

    live = await users.list(
        {"tenant_id": 7}, not_ada, order_by="-id", limit=1, offset=1, with_total=True
    )
    every = await users.list(
        {"tenant_id": 7},
        not_ada,
        order_by="-id",
        limit=2,
        offset=1,
        with_total=True,
        include_deleted=True,
    )

    assert (keys(live), live.has_more, live.total) == ([3], False, 2)
    assert (keys(every), every.has_more, every.total) == ([4, 3], True, 4)


async def test_filters_narrow_every_way_of_reading(users: UserRepository) -> None:
    either = AnyOf([{"name": Contains("AD")}, {"id": [4, 5]}])

    assert keys(await users.list({"tenant_id": 7}, either)) == [1, 4, 5]
    assert await users.count({"tenant_id": 7}, either) == 3
    assert await users.exists({"tenant_id": 7}, either)
    assert await users.get_by({"id": 4}, either) is not None
    assert keys(await users.list({"tenant_id": 8}, either)) == []
    assert await users.count({"tenant_id": 8}, either) == 0
    assert not await users.exists({"tenant_id": 8}, either)
    assert await users.get_by({"id": 3}, either) is None


async def test_an_unknown_name_is_refused_by_every_way_of_reading(
    users: UserRepository,
) -> None:
    unknown = {"emial": "ada@example.com"}

    for read in (users.list, users.count, users.exists, users.get_by):
        with pytest.raises(FieldError, match=r"User\.emial is not a column"):
            await read(unknown)
    with pytest.raises(FieldError, match=r"User\.emial is not a column"):
        await users.list(order_by="-emial")


async def test_get_by_raises_when_several_rows_match(users: UserRepository) -> None:
    assert await users.get_by({"name": "Nobody"}) is None
    with pytest.raises(MultipleResultsFound):
        await users.get_by({"tenant_id": 7})


# --- create and update


async def test_create_returns_what_the_database_filled_in(
    users: UserRepository,
) -> None:
    user = await users.create(tenant_id=7, email="linus@example.com")

    assert sa.inspect(user).persistent
    assert (user.id, user.level, user.revision) == (6, 1, "new")
    assert isinstance(user.created_at, datetime)


async def test_create_refuses_what_is_not_a_column(
    users: UserRepository, engine: AsyncEngine
) -> None:
    with count_sql(engine) as statements:
        for name in ("emial", "extensions", "metadata"):
            with pytest.raises(FieldError, match=name):
                await users.create(tenant_id=7, email="x@example.com", **{name: "x"})

    assert statements.total == 0


async def test_update_returns_the_row_as_the_database_has_it(
    users: UserRepository, engine: AsyncEngine
) -> None:
    updated = await users.update(1, name="Countess", level=User.level + 1)

    assert updated is not None
    assert (updated.name, updated.level) == ("Countess", 2)
    assert updated.revision == "changed"
    assert updated.email == "ada@example.com"
    await users.session.commit()
    async with AsyncSession(engine) as other:
        stored = await other.get_one(User, 1)
        assert (stored.name, stored.level) == ("Countess", 2)
        untouched = await other.get_one(User, 2)
        assert (untouched.name, untouched.revision) == ("Grace", "new")


async def test_an_instance_that_is_already_loaded_shows_the_new_values(
    users: UserRepository,
) -> None:
    ada = await users.get(1)
    updated = await users.update(1, name="Countess")

    assert updated is ada
    assert ada is not None
    assert (ada.name, ada.revision) == ("Countess", "changed")


async def test_update_unloads_relationships_rather_than_leave_them_stale(
    users: UserRepository, session: AsyncSession
) -> None:
    ada = await session.get_one(User, 1, options=[selectinload(User.extensions)])
    await users.update(1, name="Countess")

    assert "extensions" in sa.inspect(ada).unloaded


async def test_an_update_does_not_overwrite_changes_that_are_still_pending(
    users: UserRepository, session: AsyncSession
) -> None:
    ada = await session.get_one(User, 1)
    with session.no_autoflush:
        ada.created_by = "import"
        await users.update(1, name="Countess")

    assert (ada.created_by, ada.name) == ("import", "Countess")


async def test_an_update_of_an_unknown_field_is_refused(
    users: UserRepository, engine: AsyncEngine
) -> None:
    with (
        count_sql(engine) as statements,
        pytest.raises(FieldError, match=r"User\.emial is not a column") as caught,
    ):
        await users.update(1, name="Countess", emial="ada@example.org")

    assert caught.value.field == "emial"
    assert statements.total == 0


async def test_an_update_of_a_protected_field_is_refused(
    users: UserRepository, engine: AsyncEngine
) -> None:
    fields = ("id", "tenant_id", "created_at", "created_by", "deleted_at", "deleted_by")
    with count_sql(engine) as statements:
        for name in fields:
            with pytest.raises(FieldError, match=f"User.{name} may not be updated"):
                await users.update(1, name="Countess", **{name: None})

    assert statements.total == 0


@pytest.mark.parametrize("name", ["tenant_id", "number"])
async def test_no_part_of_a_key_can_be_updated(
    session: AsyncSession, name: str
) -> None:
    class Open(BaseRepository[Extension]):
        protected = frozenset()

    with pytest.raises(FieldError, match="may not be updated"):
        await Open(Extension, session).update((7, 1), **{name: 2})


async def test_fields_may_be_named_like_parameters(session: AsyncSession) -> None:
    settings = BaseRepository(Setting, session)
    created = await settings.create(key="ringtone", limit=1, values="soft")
    updated = await settings.update(created.id, key="volume", limit=2, values="loud")

    assert updated is not None
    assert (updated.key, updated.limit, updated.values) == ("volume", 2, "loud")


async def test_an_update_of_no_fields_returns_the_row_and_writes_nothing(
    users: UserRepository, engine: AsyncEngine
) -> None:
    with count_sql(engine) as statements:
        ada = await users.update(1)

    assert ada is not None
    assert ada.revision == "new"
    assert [text.split(maxsplit=1)[0] for text in statements.texts] == ["SELECT"]


async def test_an_update_of_a_missing_row_returns_none(users: UserRepository) -> None:
    assert await users.update(99, name="Nobody") is None
    assert await users.update(99) is None


async def test_a_conflict_names_its_constraint_and_leaves_the_session_usable(
    users: UserRepository, engine: AsyncEngine
) -> None:
    await users.update(3, name="Edsger Dijkstra")
    for attempt in (
        users.create(tenant_id=7, email="ada@example.com"),
        users.update(2, email="ada@example.com"),
    ):
        with pytest.raises(ConflictError) as caught:
            await attempt
        assert caught.value.constraint == "uq_users_tenant_id_email"
        assert "ada@example.com" not in str(caught.value)
    await users.create(tenant_id=7, email="linus@example.com")
    await users.session.commit()

    async with AsyncSession(engine) as other:
        stored = UserRepository(other)
        assert await stored.exists({"name": "Edsger Dijkstra"})
        assert await stored.exists({"name": "Grace", "email": "grace@example.com"})
        assert await stored.count() == 6


async def test_writes_bypass_validators_and_mapper_events(
    session: AsyncSession,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    settings = BaseRepository(Setting, session)
    for name in ("before_insert", "before_update", "before_delete"):
        event.listen(Setting, name, refuse)
    try:
        created = await settings.create(key="ringtone", limit=1)
        await settings.update(created.id, limit=2)
        assert await settings.delete(created.id)
    finally:
        for name in ("before_insert", "before_update", "before_delete"):
            event.remove(Setting, name, refuse)


# --- delete and soft_delete


async def test_delete_says_whether_a_row_went(
    users: UserRepository, engine: AsyncEngine
) -> None:
    assert await users.delete(1)
    assert not await users.delete(1)
    await users.session.commit()

    async with AsyncSession(engine) as other:
        assert keys(await UserRepository(other).list()) == [2, 3, 4, 5]


async def test_a_deleted_row_is_gone_at_once_even_without_autoflush(
    users: UserRepository, session: AsyncSession
) -> None:
    ada = await users.get(1)
    with session.no_autoflush:
        await users.delete(1)

        assert ada not in session
        assert await users.get(1) is None
        assert keys(await users.list()) == [2, 3, 4, 5]


async def test_a_row_that_others_refer_to_is_a_conflict_where_it_is_deleted(
    users: UserRepository, session: AsyncSession
) -> None:
    await BaseRepository(Extension, session).create(tenant_id=7, number=1001, user_id=1)

    with pytest.raises(ConflictError, match="User violates"):
        await users.delete(1)

    assert await users.exists({"id": 1})
    assert await users.delete(2)


async def test_soft_delete_keeps_who_did_it_and_when(users: UserRepository) -> None:
    assert await users.soft_delete(1, deleted_by="grace")

    ada = await users.get(1, include_deleted=True)
    assert ada is not None
    assert isinstance(ada.deleted_at, datetime)
    assert ada.deleted_by == "grace"


async def test_a_second_soft_delete_changes_nothing(users: UserRepository) -> None:
    await users.soft_delete(1, deleted_by="grace")

    assert not await users.soft_delete(1, deleted_by="edsger")
    assert not await users.soft_delete(99)
    ada = await users.get(1, include_deleted=True)
    assert ada is not None
    assert ada.deleted_by == "grace"


async def test_a_soft_deleted_row_is_hidden_from_every_way_of_reading(
    users: UserRepository, session: AsyncSession
) -> None:
    loaded = await users.get(1)
    assert loaded is not None
    await users.soft_delete(1)
    this = {"id": 1}

    for _ in ("held by the session", "read anew"):
        assert await users.get(1) is None
        assert await users.get(1, include_deleted=True) is not None
        session.expunge_all()
    assert await users.get_by(this) is None
    assert await users.get_by(this, include_deleted=True) is not None
    assert keys(await users.list(this)) == []
    assert keys(await users.list(this, include_deleted=True)) == [1]
    assert (await users.count(this), await users.exists(this)) == (0, False)
    assert await users.count(this, include_deleted=True) == 1
    assert await users.exists(this, include_deleted=True)


@pytest.mark.parametrize("deleted", [True, False])
async def test_a_row_that_is_held_without_its_mark_is_looked_up(
    users: UserRepository, session: AsyncSession, *, deleted: bool
) -> None:
    if deleted:
        await users.soft_delete(1)
    session.expunge_all()
    query = sa.select(User).options(load_only(User.email)).where(User.id == 1)
    held = (await session.scalars(query)).one()

    assert await users.get(1, include_deleted=True) is held
    assert await users.get(1) is (None if deleted else held)


async def test_a_soft_deleted_row_cannot_be_updated_but_can_be_deleted(
    users: UserRepository,
) -> None:
    await users.soft_delete(1)

    assert await users.update(1, name="Countess") is None
    assert await users.update(1) is None
    assert await users.delete(1)
    assert await users.get(1, include_deleted=True) is None


async def test_soft_delete_needs_the_columns_that_it_sets(
    session: AsyncSession,
) -> None:
    with pytest.raises(FieldError, match=r"Extension\.deleted_at is not a column"):
        await BaseRepository(Extension, session).soft_delete((7, 1))
    with pytest.raises(FieldError, match=r"Voicemail\.deleted_by is not a column"):
        await BaseRepository(Voicemail, session).soft_delete(1, deleted_by="ada")


async def test_soft_delete_needs_no_deleted_by(session: AsyncSession) -> None:
    messages = BaseRepository(Voicemail, session)
    await messages.create(id=1)

    assert await messages.soft_delete(1)
    assert await messages.count() == 0


async def test_the_zone_of_deleted_at(
    users: UserRepository, database_backend: str, proof: Proof
) -> None:
    await users.soft_delete(1)
    ada = await users.get(1, include_deleted=True)

    assert ada is not None
    assert ada.deleted_at is not None
    aware = ada.deleted_at.tzinfo is not None
    assert aware is (database_backend == "postgresql")
    proof.differs(
        "The time that soft_delete sets is read as",
        "an aware datetime" if aware else "a naive datetime in UTC, in whole seconds",
    )


# --- transactions and costs


async def test_nothing_is_committed_by_the_repository(
    users: UserRepository, engine: AsyncEngine
) -> None:
    with count_sql(engine) as statements:
        await users.create(tenant_id=7, email="linus@example.com")
        await users.update(1, name="Countess")
        await users.soft_delete(2)
        await users.delete(3)
        await users.list(with_total=True)
    await users.session.rollback()

    assert (statements.begins, statements.commits, statements.rollbacks) == (1, 0, 0)
    async with AsyncSession(engine) as other:
        stored = await UserRepository(other).list()
        assert [user.name for user in stored.items] == NAMES


async def test_a_unit_of_work_commits_or_rolls_back_what_a_repository_wrote(
    session: AsyncSession, database_url: str
) -> None:
    engine, sessions = create_engine_and_sessions(database_url)

    async def promote(**email: str) -> None:
        async with session_scope(sessions) as scope:
            await UserRepository(scope).update(2, name="Admiral")
            await UserRepository(scope).update(3, name="Professor", **email)

    with pytest.raises(ConflictError):
        await promote(email="ada@example.com")
    assert await UserRepository(session).exists({"name": "Grace"})
    await promote()
    await engine.dispose()

    assert await UserRepository(session).exists({"name": "Admiral"})
    assert not await UserRepository(session).exists({"name": "Grace"})


async def test_every_call_costs_one_statement_and_a_total_one_more(
    users: UserRepository, engine: AsyncEngine, proof: Proof
) -> None:
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: users.get(1),
        "get_by": lambda: users.get_by({"id": 2}),
        "list": lambda: users.list(limit=2),
        "list with total": lambda: users.list(limit=2, with_total=True),
        "count": users.count,
        "exists": users.exists,
        "create": lambda: users.create(tenant_id=7, email="linus@example.com"),
        "update": lambda: users.update(1, name="Countess"),
        "soft_delete": lambda: users.soft_delete(2),
        "delete": lambda: users.delete(3),
    }
    await users.session.connection()
    for operation, call in calls.items():
        with count_sql(engine) as statements:
            await call()

        assert statements.total == (2 if operation == "list with total" else 1)
        proof.cost(operation, statements=statements.total)


# --- the naive version


async def test_the_naive_update_of_a_misspelt_field_reports_success(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    users = NaiveRepository(User, session)
    with count_sql(engine) as statements:
        updated = await users.update(1, emial="ada@example.org")

    assert updated is not None
    assert updated.email == "ada@example.com"
    assert not [text for text in statements.texts if text.startswith("UPDATE")]
    proof.breaks(
        "update(1, emial=...)", "returns the user as if it were done; no UPDATE is sent"
    )


async def test_the_naive_update_lets_a_client_change_any_field(
    session: AsyncSession, proof: Proof
) -> None:
    updated = await NaiveRepository(User, session).update(1, tenant_id=8)

    assert updated is not None
    assert updated.tenant_id == 8
    proof.breaks("update(1, tenant_id=8)", "moves the user to another tenant")


@pytest.mark.backends("sqlite")
async def test_the_naive_list_asks_for_no_order(
    session: AsyncSession, engine: AsyncEngine, database_backend: str, proof: Proof
) -> None:
    assert database_backend == "sqlite"
    with count_sql(engine) as statements:
        await NaiveRepository(User, session).list(limit=2)

    assert "ORDER BY" not in statements.texts[0]
    proof.breaks("Two pages are read one after the other", "neither has an ORDER BY")


@pytest.mark.backends("postgresql")
async def test_the_naive_list_loses_a_row_between_two_pages(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    assert database_backend == "postgresql"
    users = NaiveRepository(User, session)
    first = await users.list(limit=2)
    await users.update(1, name="Countess")
    second = await users.list(limit=3, offset=2)

    seen = [user.name for user in (*first, *second)]
    assert seen == ["Countess", "Grace", "Barbara", "Alan", "Countess"]
    proof.breaks(
        "On PostgreSQL a row of page 1 is updated before page 2 is read",
        "page 2 shows it again, and another user on no page",
    )


async def test_a_negative_limit_in_sql(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    users = NaiveRepository(User, session)
    if database_backend == "sqlite":
        assert len(await users.list(limit=-1)) == len(NAMES)
        behaviour = "returns every row"
    else:
        with pytest.raises(DBAPIError, match="LIMIT must not be negative"):
            await users.list(limit=-1)
        behaviour = "raises DBAPIError"
    proof.differs("A limit of -1, which the repository refuses, in SQL", behaviour)


async def test_the_naive_delete_leaves_the_row_to_be_listed(
    session: AsyncSession, proof: Proof
) -> None:
    users = NaiveRepository(User, session)
    with session.no_autoflush:
        await users.delete(1)
        listed = await users.list()

    assert len(listed) == 5
    proof.breaks(
        "A row is deleted in a session without autoflush, then all are listed",
        "the deleted row is among them",
    )


async def test_the_naive_list_of_deleted_rows_ignores_its_limit(
    session: AsyncSession, proof: Proof
) -> None:
    users = NaiveRepository(User, session)

    assert len(await users.list(limit=2, include_deleted=True)) == 5
    proof.breaks("list(limit=2, include_deleted=True)", "returns 5 rows")
