"""Whatever a query looks like, it finds what it would without the hidden rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from sqlalchemy.orm.util import AliasedClass

from snippets.database.row_filter import Element, RowFilter
from tests.support.databases import create_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

QUERIES = 40
FIELDS = ("id", "a", "b")


class Base(DeclarativeBase):
    """The tables of these tests."""


class HiddenMixin:
    """Rows that a query is not to find."""

    hidden: Mapped[bool] = mapped_column(default=False)


class User(HiddenMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    a: Mapped[int]
    b: Mapped[int]


class Call(HiddenMixin, Base):
    """A call of somebody."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    a: Mapped[int]
    b: Mapped[int]


MODELS = (User, Call)


def is_shown(row: type[HiddenMixin]) -> sa.ColumnElement[bool]:
    return row.hidden.is_(False)


class Queries:
    """Makes queries of three columns, of classes or of tables, each at random."""

    def __init__(self, dice: Random, *, of_classes: bool) -> None:
        """Make them of classes, or else of their tables."""
        self.random = dice
        self.of_classes = of_classes

    def any(self, depth: int) -> sa.Select[Element]:
        """Return a query whose parts are nested so deep at most."""
        pick = self.random.choice
        source, other = self.source(depth), self.source(depth - 1)
        left, right = fields(source), fields(other)
        joins = pick([True, False])
        out = [left[0], pick(left), pick(right if joins else left)]
        columns = [c.label(name) for c, name in zip(out, FIELDS, strict=True)]
        query = select(*columns).select_from(source)
        if joins:
            onclause, outer = pick(left) == pick(right), pick([True, False])
            query = query.join(other, onclause, isouter=outer)
        if pick([True, False]):
            query = query.where(self.condition(left + right * joins, depth))
        if pick([True, False, False]):
            query = query.with_only_columns(
                left[0].label("id"),
                func.count(pick(left)).label("a"),
                func.max(pick(left)).label("b"),
            ).group_by(left[0])
        return query

    def source(self, depth: int) -> Element:
        """Return what a query may select from: a model, an alias, another query."""
        model: Element = self.random.choice(MODELS)
        if depth > 0 and self.random.random() < 0.7:
            query, kind = self.any(depth - 1), self.random.choice("scua")
            if kind == "s":
                return query.subquery()
            if kind == "c":
                return query.cte()
            if kind == "u":
                return sa.union(query, self.any(depth - 1)).subquery()
        if self.of_classes:
            return aliased(model)
        return model.__table__.alias()

    def condition(self, columns: Sequence[Element], depth: int) -> Element:
        """Return a condition on these columns, which may ask another query."""
        column = self.random.choice(columns)
        if depth <= 0:
            return column > self.random.randint(0, 6)
        source = self.source(depth - 1)
        theirs = fields(source)
        asked = select(self.random.choice(theirs)).select_from(source)
        related = asked.where(self.random.choice(theirs) == column)
        return self.random.choice(
            [
                column.in_(asked),
                column.not_in(asked),
                related.exists(),
                ~related.exists(),
                column < asked.with_only_columns(func.count()).scalar_subquery(),
            ]
        )


def fields(source: Element) -> list[Element]:
    columns = source if isinstance(source, AliasedClass) else source.c
    return [getattr(columns, name) for name in FIELDS]


async def found(session: AsyncSession, query: Element) -> list[str] | None:
    """Return the rows, in any order; None if the database does not take the query."""
    try:
        async with session.begin_nested():
            return sorted(map(repr, (await session.execute(query)).all()))
    except InvalidRequestError:
        raise
    except SQLAlchemyError:
        return None


@pytest.fixture
async def filled(engine: AsyncEngine) -> AsyncEngine:
    """An engine on tables in which each third row is hidden."""
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        for model in MODELS:
            rows = [
                {"id": n, "a": n * 5 % 7, "b": n * n % 11, "hidden": n % 3 == 0}
                for n in range(1, 13)
            ]
            await connection.execute(sa.insert(model), rows)
    return engine


@settings(
    deadline=None,
    derandomize=True,
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(dice=st.randoms(use_true_random=True))
@pytest.mark.parametrize("of_classes", [True, False])
async def test_a_random_query_finds_what_it_would_without_the_hidden_rows(
    filled: AsyncEngine, dice: Random, *, of_classes: bool
) -> None:
    make = Queries(dice, of_classes=of_classes)
    queries = [make.any(dice.randint(0, 2)) for _ in range(QUERIES)]
    async with AsyncSession(filled) as session:
        for model in MODELS:
            await session.execute(sa.delete(model).where(model.hidden))
        expected = [await found(session, query) for query in queries]
    assert expected.count(None) < QUERIES / 10

    class Filtered(Session):
        """A class for the listener alone."""

    row_filter = RowFilter(HiddenMixin, is_shown)
    sa.event.listen(Filtered, "do_orm_execute", row_filter.apply)
    async with AsyncSession(filled, sync_session_class=Filtered) as session:
        for query, rows_without in zip(queries, expected, strict=True):
            if rows_without is not None:
                assert await found(session, query) == rows_without, str(query)
