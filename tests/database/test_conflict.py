"""A violated constraint is named, quotes no row, and leaves the transaction usable."""

import asyncio
import re
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.plugin import Proof
from snippets.database.conflict import ConflictError, write_or_conflict
from snippets.database.conflict_naive import insert_or_complain
from tests.support.counters import count_sql
from tests.support.databases import create_tables


class Base(DeclarativeBase):
    """Names every constraint in the same way on both databases."""

    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class Tenant(Base):
    """A customer of the telephony platform."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)


class User(Base):
    """A user with a constraint of every kind."""

    __tablename__ = "users"
    __table_args__ = (
        sa.UniqueConstraint("tenant_id", "email_address"),
        sa.CheckConstraint("level between 1 and 3", name="level"),
        sa.Index("uq_users_login", sa.text("lower(login)"), unique=True),
        sa.Index("ix_users_extension", "extension"),
        sa.Index(
            "uq_users_extension",
            "extension",
            unique=True,
            sqlite_where=sa.text("level < 3"),
            postgresql_where=sa.text("level < 3"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(sa.ForeignKey("tenants.id"))
    email: Mapped[str] = mapped_column("email_address")
    login: Mapped[str | None]
    extension: Mapped[str | None]
    level: Mapped[int] = mapped_column(default=1)
    deputy_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey("users.id"), unique=True
    )


class Call(Base):
    """A call, whose user is looked up at the commit and may not be deleted."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(
        sa.ForeignKey("users.id", deferrable=True, initially="DEFERRED")
    )


class Unnamed(DeclarativeBase):
    """Names no constraint."""


class Voicemail(Unnamed):
    """A message with a unique number."""

    __tablename__ = "voicemails"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session in which nothing was done yet; one user, Ada, is in the database."""
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        await connection.execute(sa.insert(Tenant).values(id=1))
        ada = {"tenant_id": 1, "email": "ada@example.com", "login": "ada"}
        await connection.execute(sa.insert(User).values(ada))
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


async def insert(session: AsyncSession, **values: object) -> User:
    """Insert a user of tenant 1 and return it."""
    values = {"tenant_id": 1, "email": "grace@example.com", **values}
    statement = sa.insert(User).values(values).returning(User)
    return (await write_or_conflict(session, User, statement))[0]


async def emails(session: AsyncSession) -> set[str]:
    """Return the addresses of all users."""
    return set(await session.scalars(sa.select(User.email)))


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"email": "ada@example.com"}, "uq_users_tenant_id_email_address"),
        ({"id": 1}, "pk_users"),
        ({"level": 4}, "ck_users_level"),
        ({"login": "ADA"}, "uq_users_login"),
        ({"extension": "1001"}, "uq_users_extension"),
        ({"deputy_id": 1}, "uq_users_deputy_id"),
    ],
)
async def test_a_conflict_carries_the_name_of_the_constraint(
    session: AsyncSession, values: dict[str, object], constraint: str
) -> None:
    await insert(session, email="linus@example.com", extension="1001", deputy_id=1)

    with pytest.raises(ConflictError) as caught:
        await insert(session, **values)

    assert caught.value.constraint == constraint
    assert str(caught.value) == f"User violates {constraint}"


async def test_a_session_may_have_an_engine_for_each_model(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    assert await emails(session) == {"ada@example.com"}
    async with AsyncSession(binds={Base: engine}) as bound:
        await insert(bound)
        with pytest.raises(ConflictError):
            await insert(bound)
        assert await emails(bound) == {"ada@example.com", "grace@example.com"}


async def test_a_conflict_over_a_foreign_key(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    names = {"sqlite": None, "postgresql": "fk_users_tenant_id"}

    with pytest.raises(ConflictError) as caught:
        await insert(session, tenant_id=2)

    name = caught.value.constraint
    assert name == names[database_backend]
    proof.differs(
        "A conflict over a foreign key carries",
        "the constraint's name" if name else "no name: SQLite does not tell it",
    )


async def test_a_conflict_over_a_unique_constraint_that_the_model_leaves_unnamed(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    names = {"sqlite": None, "postgresql": "voicemails_number_key"}
    connection = await session.connection()
    await connection.run_sync(Unnamed.metadata.create_all)
    new = sa.insert(Voicemail).values(number=1).returning(Voicemail.id)
    await write_or_conflict(session, Voicemail, new)

    with pytest.raises(ConflictError) as caught:
        await write_or_conflict(session, Voicemail, new)

    name = caught.value.constraint
    assert name == names[database_backend]
    proof.differs(
        "A conflict over a unique constraint without a name carries",
        f"the name the server chose, {name}" if name else "no name",
    )


async def test_a_missing_value_is_a_conflict_without_a_name(
    session: AsyncSession,
) -> None:
    with pytest.raises(ConflictError) as caught:
        await insert(session, email=None)

    assert caught.value.constraint is None
    assert str(caught.value) == "User violates a constraint"


async def test_updates_and_deletes_conflict_like_inserts(session: AsyncSession) -> None:
    grace = await insert(session)
    rename = sa.update(User).where(User.id == grace.id).values(email="ada@example.com")
    remove = sa.delete(Tenant).where(Tenant.id == 1)

    with pytest.raises(ConflictError, match="uq_users_tenant_id_email_address"):
        await write_or_conflict(session, User, rename.returning(User))
    with pytest.raises(ConflictError, match="Tenant violates"):
        await write_or_conflict(session, Tenant, remove.returning(Tenant.id))

    assert await emails(session) == {"ada@example.com", "grace@example.com"}


async def test_a_conflict_keeps_what_came_before_and_lets_the_transaction_go_on(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    await insert(session, email="before@example.com")
    for _ in range(3):
        with pytest.raises(ConflictError):
            await insert(session, email="ada@example.com")
    await insert(session, email="after@example.com")
    await session.commit()

    async with AsyncSession(engine) as other:
        kept = {"ada@example.com", "before@example.com", "after@example.com"}
        assert await emails(other) == kept


async def test_of_a_write_that_conflicts_no_row_stays(session: AsyncSession) -> None:
    many = [
        {"tenant_id": 1, "email": "new@example.com"},
        {"tenant_id": 1, "email": "ada@example.com"},
    ]

    with pytest.raises(ConflictError):
        await write_or_conflict(
            session, User, sa.insert(User).values(many).returning(User)
        )

    assert await emails(session) == {"ada@example.com"}


async def test_a_rollback_undoes_a_write_that_was_the_first_of_its_transaction(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    await insert(session)
    await session.rollback()

    async with AsyncSession(engine) as other:
        assert await emails(other) == {"ada@example.com"}


async def test_begin_nested_that_is_the_first_of_its_transaction(
    session: AsyncSession, database_url: str, database_backend: str, proof: Proof
) -> None:
    engine = create_async_engine(database_url)
    async with AsyncSession(engine) as other:
        async with other.begin_nested():
            other.add(User(tenant_id=1, email="grace@example.com"))
        await other.rollback()
    await engine.dispose()

    stays = "grace@example.com" in await emails(session)
    assert stays is (database_backend == "sqlite")
    proof.differs(
        "A row added in begin_nested, the first in its transaction on an engine with"
        " default settings, after a rollback",
        "stays: releasing the savepoint committed it" if stays else "is gone",
    )


async def test_the_conflict_is_free_of_the_row_s_values(session: AsyncSession) -> None:
    canary = "canary-4f1c@example.com"
    await insert(session, email=canary)

    with pytest.raises(ConflictError) as caught:
        await insert(session, email=canary)

    conflict = caught.value
    shown = [str(conflict), repr(conflict), *traceback.format_exception(conflict)]
    assert canary not in "".join(shown)
    assert canary in str(conflict.__context__)  # the driver's own error quotes it


async def test_what_fails_in_the_flush_is_not_blamed_on_the_write(
    session: AsyncSession,
) -> None:
    session.add(User(tenant_id=1, email="ada@example.com"))

    with pytest.raises(IntegrityError):
        await insert(session)


async def test_pending_changes_are_written_first_even_without_autoflush(
    session: AsyncSession,
) -> None:
    ada = await session.get_one(User, 1)
    ada.login = "countess"
    change = sa.update(User).where(User.id == 1).values(level=2).returning(User)

    with session.no_autoflush:
        (changed,) = await write_or_conflict(session, User, change)

    assert changed is ada
    assert (ada.login, ada.level) == ("countess", 2)


async def test_an_instance_that_the_session_holds_shows_the_new_state(
    session: AsyncSession,
) -> None:
    ada = await session.get_one(User, 1)
    change = sa.update(User).where(User.id == 1).values(level=User.level + 1)

    await write_or_conflict(session, User, change.returning(User))

    assert ada.level == 2


async def test_a_deleted_row_leaves_the_session(session: AsyncSession) -> None:
    ada = await session.get_one(User, 1)
    remove = sa.delete(User).where(User.id == 1)

    await write_or_conflict(session, User, remove.returning(User.id))

    assert ada not in session
    assert await session.get(User, 1) is None


async def test_an_error_that_is_no_violated_constraint_passes_unchanged(
    session: AsyncSession,
) -> None:
    query = sa.insert(User).values(tenant_id=1, email="x").returning(sa.text("nowhere"))

    with pytest.raises(DBAPIError, match="nowhere") as caught:
        await write_or_conflict(session, User, query)

    assert not isinstance(caught.value, IntegrityError)


async def test_a_deferred_constraint_raises_at_the_commit_instead(
    session: AsyncSession,
) -> None:
    call = sa.insert(Call).values(user_id=99).returning(Call.id)
    await write_or_conflict(session, Call, call)

    with pytest.raises(IntegrityError):
        await session.commit()


@pytest.mark.backends("postgresql")
async def test_a_key_that_a_concurrent_transaction_takes_first_is_a_conflict(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    await insert(session)
    async with (
        asyncio.timeout(60),
        AsyncSession(engine) as other,
        AsyncSession(engine) as watcher,
    ):
        second = asyncio.create_task(insert(other))
        waiting = sa.text(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        while not await watcher.scalar(waiting):
            await watcher.rollback()
        await session.commit()

        with pytest.raises(ConflictError, match="uq_users_tenant_id_email_address"):
            await second


async def test_a_write_costs_one_statement(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    await session.connection()
    with count_sql(engine) as statements:
        await insert(session)

    assert statements.total == 1
    assert (statements.begins, statements.commits) == (0, 0)
    proof.cost("one write", statements=1)


@contextmanager
def every_statement(engine: AsyncEngine) -> Iterator[list[str]]:
    """Collect the first words of every statement, savepoints too."""
    words: list[str] = []

    def executed(_: object, __: object, statement: str, *___: object) -> None:
        words.append(statement.split(maxsplit=1)[0])

    event.listen(engine.sync_engine, "before_cursor_execute", executed)
    try:
        yield words
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", executed)


async def test_a_write_sends_no_more_than_its_backend_needs(
    session: AsyncSession, engine: AsyncEngine, database_backend: str, proof: Proof
) -> None:
    written = {"sqlite": ["INSERT"], "postgresql": ["SAVEPOINT", "INSERT", "RELEASE"]}
    refused = {
        "sqlite": ["INSERT"],
        "postgresql": ["SAVEPOINT", "INSERT", "ROLLBACK", "RELEASE"],
    }
    await session.connection()
    with every_statement(engine) as words:
        await insert(session)
    with every_statement(engine) as others, pytest.raises(ConflictError):
        await insert(session)

    assert words == written[database_backend]
    assert others == refused[database_backend]
    proof.differs("What one insert sends", ", ".join(words))


async def test_the_naive_version_loses_what_came_before_and_quotes_the_row(
    session: AsyncSession, engine: AsyncEngine, proof: Proof
) -> None:
    await insert_or_complain(session, User(tenant_id=1, email="before@example.com"))
    with pytest.raises(ValueError, match=re.escape("ada@example.com")):
        await insert_or_complain(session, User(tenant_id=1, email="ada@example.com"))
    await insert_or_complain(session, User(tenant_id=1, email="after@example.com"))
    await session.commit()

    async with AsyncSession(engine) as other:
        assert await emails(other) == {"ada@example.com", "after@example.com"}
    proof.breaks(
        "The second of three inserts violates a constraint, and the caller goes on",
        "the commit succeeds without the first: the rollback took it too",
    )
    proof.breaks(
        "A duplicate address is reported to the client",
        "the message holds the SQL and the row's values",
    )


async def test_the_naive_version_cannot_tell_which_constraint_it_was(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    names = {
        "sqlite": "UNIQUE constraint failed: users.tenant_id, users.email_address",
        "postgresql": 'unique constraint "uq_users_tenant_id_email_address"',
    }
    with pytest.raises(ValueError, match="already there") as caught:
        await insert_or_complain(session, User(tenant_id=1, email="ada@example.com"))
    duplicate = str(caught.value)
    with pytest.raises(ValueError, match="already there"):
        await insert_or_complain(session, User(tenant_id=2, email="ada@example.com"))

    assert names[database_backend] in duplicate
    proof.breaks(
        "A row is refused for a tenant that does not exist",
        "it is said to be already there; only the driver's text, different on each"
        " database, tells otherwise",
    )
