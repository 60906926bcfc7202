"""Any sequence of calls leaves what a plain dictionary would hold."""

from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.conflict import ConflictError
from snippets.database.repository import BaseRepository
from tests.support.databases import create_tables

KEYS = st.integers(1, 4)
NUMBERS = st.integers(1000, 1003)
CALLS = st.one_of(
    st.tuples(st.just("create"), KEYS, NUMBERS),
    st.tuples(st.just("update"), KEYS, NUMBERS),
    st.tuples(st.just("soft_delete"), KEYS, NUMBERS),
    st.tuples(st.just("delete"), KEYS, NUMBERS),
)


class Base(DeclarativeBase):
    """The table of this test."""


class Extension(Base):
    """An extension, whose number is unique among the deleted ones too."""

    __tablename__ = "extensions"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    deleted_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


@dataclass(frozen=True)
class Stored:
    """What the model remembers of an extension."""

    number: int
    live: bool = True


@dataclass
class Model:
    """The same calls on a dictionary; a conflict is None."""

    rows: dict[int, Stored] = field(default_factory=dict)

    def taken(self, number: int, *, but: int) -> bool:
        """Return whether another extension has the number."""
        others = (row for key, row in self.rows.items() if key != but)
        return any(row.number == number for row in others)

    def create(self, key: int, number: int) -> bool | None:
        """Return True for a new row."""
        if key in self.rows or self.taken(number, but=key):
            return None
        self.rows[key] = Stored(number)
        return True

    def update(self, key: int, number: int) -> bool | None:
        """Return whether there was a live row to change."""
        if not self.is_live(key):
            return False
        if self.taken(number, but=key):
            return None
        self.rows[key] = replace(self.rows[key], number=number)
        return True

    def soft_delete(self, key: int, _: int) -> bool:
        """Return whether there was a live row to mark."""
        if not self.is_live(key):
            return False
        self.rows[key] = replace(self.rows[key], live=False)
        return True

    def delete(self, key: int, _: int) -> bool:
        """Return whether there was a row to remove."""
        return self.rows.pop(key, None) is not None

    def is_live(self, key: int) -> bool:
        """Return whether there is a row that is not marked."""
        return key in self.rows and self.rows[key].live


@pytest.fixture
async def tables(engine: AsyncEngine) -> AsyncEngine:
    """The engine, with the empty table."""
    await create_tables(engine, Base.metadata)
    return engine


async def perform(
    extensions: BaseRepository[Extension], name: str, key: int, number: int
) -> bool | None:
    """Make one call; return whether it found its row, or None for a conflict."""
    try:
        match name:
            case "create":
                return await extensions.create(id=key, number=number) is not None
            case "update":
                return await extensions.update(key, number=number) is not None
            case "soft_delete":
                return await extensions.soft_delete(key)
            case _:
                return await extensions.delete(key)
    except ConflictError:
        return None


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=st.lists(CALLS, max_size=12))
async def test_a_sequence_of_calls_does_what_it_does_to_a_dictionary(
    tables: AsyncEngine, calls: list[tuple[str, int, int]]
) -> None:
    model = Model()
    async with AsyncSession(tables) as session:
        extensions = BaseRepository(Extension, session)
        for name, key, number in calls:
            expected = getattr(model, name)(key, number)
            assert await perform(extensions, name, key, number) == expected

            live = {key: row.number for key, row in model.rows.items() if row.live}
            every = {key: row.number for key, row in model.rows.items()}
            listed = await extensions.list()
            stored = await extensions.list(include_deleted=True)
            assert {row.id: row.number for row in listed.items} == live
            assert {row.id: row.number for row in stored.items} == every
            assert await extensions.count() == len(live)
            assert (await extensions.get(key) is not None) is (key in live)
