"""What comes after a row agrees with the order, and an index can start there."""

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from enum import Enum

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.plugin import Proof
from snippets.database.cursor_pagination import PageRequest, cursor_page
from snippets.database.filters import FieldError
from snippets.database.keyset import after, sort_terms
from snippets.database.keyset_naive import rows_after
from tests.support.databases import create_tables


class Base(DeclarativeBase):
    """The tables of this test."""


class Call(Base):
    """A call; many began in the same second."""

    __tablename__ = "calls"
    __table_args__ = (sa.Index("ix_calls_began", "began", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    began: Mapped[int]
    note: Mapped[str | None]


class Unheard(sa.types.UserDefinedType[object]):
    """A type of which nobody knows what Python makes of it."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return a name that both databases know."""
        return "TEXT"


class Recording(Base):
    """A recording, with numbers that lose digits when read and values without order."""

    __tablename__ = "recordings"

    id: Mapped[int] = mapped_column(primary_key=True)
    volume: Mapped[float] = mapped_column(sa.Numeric(asdecimal=False))
    gain: Mapped[Decimal] = mapped_column(sa.Double(asdecimal=True))
    sound: Mapped[bytes | None]
    tags: Mapped[list[str] | None] = mapped_column(
        sa.JSON().with_variant(sa.ARRAY(sa.String), "postgresql")
    )
    extra: Mapped[object | None] = mapped_column(sa.JSON)
    packed: Mapped[object | None] = mapped_column(sa.PickleType)
    unheard_of: Mapped[object | None] = mapped_column(Unheard)


class State(Enum):
    """What a line does, declared in the order in which it happens."""

    RINGING = 1
    BUSY = 2


class Line(Base):
    """A line and its state."""

    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[State]


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session on 3000 calls."""
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        rows = [{"id": n, "began": (n + 2) // 4} for n in range(1, 3001)]
        await connection.execute(sa.insert(Call), rows)
    async with AsyncSession(engine) as session:
        await session.execute(sa.text("ANALYZE"))
        yield session


async def plan(session: AsyncSession, began: int) -> str:
    """Return the database's plan for the page after a call."""
    dialect = session.get_bind().dialect
    terms = sort_terms(Call, "began", dialect)
    # A literal needs a type; the SQL is the same.
    terms = [replace(term, compared_as=sa.Integer()) for term in terms]
    query = sa.select(Call).where(after(terms, [began, began * 4]))
    query = query.order_by(*(term.order() for term in terms)).limit(5)
    text = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    how = "EXPLAIN QUERY PLAN " if dialect.name == "sqlite" else "EXPLAIN (COSTS OFF) "
    rows = await session.execute(sa.text(how + str(text)))
    return "\n".join(str(row[-1]) for row in rows).replace(str(began), "?")


async def test_the_index_starts_at_the_place_at_any_depth(
    session: AsyncSession,
) -> None:
    for depth in (5, 600):
        steps = await plan(session, depth)
        assert "ix_calls_began" in steps
        assert "SEARCH" in steps or "Index Cond" in steps
        assert "SORT" not in steps.upper().replace("SORT_", "")
        assert "TEMP B-TREE" not in steps


async def test_a_field_that_is_no_column_is_refused(session: AsyncSession) -> None:
    with pytest.raises(FieldError):
        sort_terms(Call, "-nothing", session.get_bind().dialect)


@pytest.mark.parametrize("by", ["sound", "tags", "extra", "packed", "unheard_of"])
async def test_a_field_whose_values_have_no_order_is_refused(
    session: AsyncSession, by: str
) -> None:
    with pytest.raises(FieldError, match=f"{by} has no order"):
        sort_terms(Recording, f"-{by}", session.get_bind().dialect)


@pytest.mark.parametrize("by", ["volume", "gain", "-volume", "-gain"])
async def test_numbers_that_are_read_with_less_digits_are_compared_with_all(
    session: AsyncSession, by: str
) -> None:
    close = Decimal("0.1"), Decimal("0.1000000000000000000001")
    rows = [{"id": n, "volume": close[n % 2], "gain": 1e-12 * n} for n in range(1, 7)]
    await session.execute(sa.insert(Recording), rows)
    terms = sort_terms(Recording, by, session.get_bind().dialect)
    query = sa.select(Recording.id, *(term.stored() for term in terms))
    query = query.order_by(*(term.order() for term in terms))
    whole = (await session.execute(query)).all()
    seen = [(await session.execute(query.limit(1))).one()]
    while more := (
        await session.execute(query.where(after(terms, seen[-1][1:])).limit(1))
    ).all():
        seen += more
        assert len(seen) <= len(whole)

    assert sorted(row[0] for row in seen) == [1, 2, 3, 4, 5, 6]
    assert seen == whole


async def test_a_page_starts_after_the_last_row_of_another(
    session: AsyncSession,
) -> None:
    terms = sort_terms(Call, "began", session.get_bind().dialect)
    page = await cursor_page(
        session, Call, request=PageRequest("began", 6), secret=b"s" * 32, scope=""
    )
    last = page.items[-1]
    query = sa.select(Call.id).where(after(terms, [last.began, last.id])).limit(1)
    query = query.order_by(*(term.order() for term in terms))
    assert (await session.scalars(query)).one() == 7


async def test_where_an_enum_sorts(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    lines = [{"id": n, "state": [*State][n % 2]} for n in range(1, 7)]
    await session.execute(sa.insert(Line), lines)
    terms = sort_terms(Line, "state", session.get_bind().dialect)
    stored = sa.select(*(term.stored() for term in terms))
    ordered = stored.order_by(*(term.order() for term in terms))
    rows = (await session.execute(ordered)).all()
    for place, row in enumerate(rows, 1):
        later = await session.execute(ordered.where(after(terms, row)))
        assert later.all() == rows[place:]
    first = await session.get_one(Line, rows[0][-1])
    assert (
        first.state
        is {"sqlite": State.BUSY, "postgresql": State.RINGING}[database_backend]
    )
    told = {
        "sqlite": "is that of its names",
        "postgresql": "is that of its declaration",
    }
    proof.differs("The order of an enum", told[database_backend])


async def test_naive_continuation_by_one_column_skips_ties(
    session: AsyncSession, proof: Proof
) -> None:
    await session.execute(sa.delete(Call).where(Call.id > 12))
    await session.execute(sa.update(Call).values(began=(Call.id + 3) // 4))
    seen, last = list[int](), None
    while rows := await rows_after(session, Call, "began", last, 3):
        seen += [call.id for call in rows]
        last = rows[-1].began
    assert len(seen) == 9
    proof.breaks("four rows share each value and a page has three", "9 of 12 rows seen")
