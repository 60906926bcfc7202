"""What a page reads is the same at any depth, save in the orders named here."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.plugin import Proof
from snippets.database.cursor_pagination import PageRequest, cursor_page
from tests.support.databases import create_tables

SECRET = b"s" * 32
LIMIT = 4
TIES = 4


class Base(DeclarativeBase):
    """The tables of this test."""


class Call(Base):
    """A call; four began in each second, and one in five nobody answered."""

    __tablename__ = "calls"
    __table_args__ = (
        sa.Index("ix_began", "began", "id"),
        sa.Index("ix_began_mixed", sa.text("began DESC"), "id"),
        sa.Index("ix_answered", "answered", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    began: Mapped[int]
    answered: Mapped[int | None]
    place: Mapped[int]


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session on 3000 calls."""
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        rows = [
            {
                "id": n,
                "began": (n + 3) // TIES,
                "answered": n // TIES if n % 5 else None,
                "place": -n,
            }
            for n in range(1, 3001)
        ]
        await connection.execute(sa.insert(Call), rows)
        await connection.exec_driver_sql("ANALYZE")
    async with AsyncSession(engine) as session:
        yield session


@dataclass(frozen=True)
class Reading:
    """What the database did for one page."""

    plan: Sequence[str]
    """Each step: SQLite's own words, or PostgreSQL's node, index and condition."""
    work: int
    """Instructions of SQLite's machine, or rows that PostgreSQL met in the table."""
    rows: int
    """Rows that it returned."""
    statements: int

    @property
    def sorts(self) -> bool:
        """Whether rows were put in order that came in another."""
        return any("Sort" in step or "TEMP B-TREE" in step for step in self.plan)


async def page_at(session: AsyncSession, by: str, number: int) -> Reading:
    """Return how a page is read; those before it are passed in larger strides."""
    cursor, passed = None, 0
    while passed < (number - 1) * LIMIT:
        stride = min(100, (number - 1) * LIMIT - passed)
        request = PageRequest(by, stride, cursor)
        page = await cursor_page(
            session, Call, request=request, secret=SECRET, scope=""
        )
        cursor, passed = page.next_cursor, passed + stride

    sent: list[tuple[str, Any]] = []

    def note(
        _: Connection, __: object, text: str, values: object, *___: object
    ) -> None:
        sent.append((text, values))

    engine = session.get_bind().engine
    event.listen(engine, "before_cursor_execute", note)
    request = PageRequest(by, LIMIT, cursor)
    await cursor_page(session, Call, request=request, secret=SECRET, scope="")
    event.remove(engine, "before_cursor_execute", note)

    connection = await session.connection()
    text, values = sent[0]
    rows = len((await connection.exec_driver_sql(text, values)).all())
    if engine.dialect.name == "sqlite":
        how = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
        plan, count = [step[-1] for step in how], 0

        def tick() -> None:
            nonlocal count
            count += 1

        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.set_progress_handler(tick, 1)
        await connection.exec_driver_sql(text, values)
        await raw.set_progress_handler(None, 1)
        return Reading(plan, count, rows, len(sent))
    explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {text}"
    how = await connection.exec_driver_sql(explained, values)
    nodes = [*nodes_of(how.scalar_one()[0]["Plan"])]
    told = ("Node Type", "Scan Direction", "Index Name")
    plan = [
        " ".join(str(node.get(key, "")) for key in told)
        + ("SEARCH" if "Index Cond" in node else "")
        for node in nodes
    ]
    leaf = nodes[-1]
    met = leaf["Actual Rows"] + leaf.get("Rows Removed by Filter", 0)
    return Reading(plan, round(met), rows, len(sent))


def nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a node of PostgreSQL's plan and those below it."""
    yield node
    for each in node.get("Plans", ()):
        yield from nodes_of(each)


ORDERS = [
    ("", "pkey", 0),
    ("began", "ix_began", 0),
    ("-began", "ix_began", 0),
    ("-began,id", "ix_began_mixed", TIES),
    ("began,-id", "ix_began_mixed", TIES),
]
"""An order, the index that has it, and how many rows PostgreSQL may meet again."""


async def test_a_page_reads_as_much_at_page_100_as_at_page_2(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    for by, index, again in ORDERS:
        pages = [await page_at(session, by, number) for number in (1, 2, 100)]
        first, second, hundredth = pages

        assert {(page.statements, page.rows) for page in pages} == {(1, LIMIT + 1)}
        assert (second.plan, second.work) == (hundredth.plan, hundredth.work)
        assert not any(page.sorts for page in pages)
        steps = " ".join(hundredth.plan)
        assert "SEARCH" in steps
        if database_backend == "sqlite":
            assert index.replace("pkey", "INTEGER PRIMARY KEY") in steps
        else:
            assert index in steps
            assert first.work == LIMIT + 1
            assert LIMIT + 1 <= hundredth.work <= LIMIT + 1 + again
    proof.cost("page 1, 2 or 100 of 4 rows each", statements=1, rows=LIMIT + 1)


async def test_a_descending_order_by_a_nullable_field_is_searched_among_its_values(
    session: AsyncSession,
) -> None:
    nulls = 600 // LIMIT
    second, hundredth = [
        await page_at(session, "-answered", nulls + n) for n in (2, 102)
    ]

    assert second.plan == hundredth.plan
    assert "SEARCH" in " ".join(hundredth.plan)
    assert not hundredth.sorts
    assert abs(hundredth.work - second.work) < second.work


async def test_limit_an_ascending_order_by_a_nullable_field_reads_all_before_the_page(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    second, hundredth = [await page_at(session, "answered", n) for n in (2, 100)]

    assert hundredth.rows == LIMIT + 1
    assert not hundredth.sorts
    assert hundredth.work > 10 * second.work
    told = {
        "sqlite": f"page 100 takes {hundredth.work // second.work} times the work",
        "postgresql": f"page 100 reads {hundredth.work} rows, page 2 {second.work}",
    }
    proof.differs("Ascending order by a field that may be NULL", told[database_backend])


async def test_limit_a_nullable_field_reads_again_the_rows_that_share_a_null(
    session: AsyncSession,
) -> None:
    second, hundredth = [await page_at(session, "-answered", n) for n in (2, 100)]

    assert hundredth.work > 10 * second.work


async def test_limit_an_order_that_no_index_has_is_sorted(
    session: AsyncSession,
) -> None:
    assert (await page_at(session, "place", 2)).sorts
    await session.execute(sa.text("DROP INDEX ix_began_mixed"))
    assert (await page_at(session, "-began,id", 2)).sorts
    assert not (await page_at(session, "-began", 2)).sorts


async def test_limit_sqlite_reads_ties_again_before_an_integer_key(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    await session.execute(sa.update(Call).values(began=1))
    second, hundredth = [await page_at(session, "began", n) for n in (2, 100)]

    assert (hundredth.work > 10 * second.work) == (database_backend == "sqlite")
    told = {
        "sqlite": "are read again by each page if the key is an integer",
        "postgresql": "cost nothing: the index starts at the very row",
    }
    proof.differs("Rows that share a page's first sort value", told[database_backend])
