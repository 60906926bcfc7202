"""A walk by cursors meets each row once, and accepts no cursor but its own."""

import math
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, assert_type

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.plugin import Proof
from snippets.database import cursor_pagination_wiring as wiring
from snippets.database.async_session import create_engine_and_sessions
from snippets.database.cursor_pagination import (
    CursorError,
    CursorPage,
    PageRequest,
    cursor_page,
    decode_cursor,
    encode_cursor,
)
from snippets.database.cursor_pagination_naive import page_by_offset as naive_page
from snippets.database.filters import Filter
from snippets.database.repository import BaseRepository
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    install_soft_delete,
    soft_delete,
)
from tests.support.databases import create_tables

SECRET = b"s" * 32
INFINITE = math.inf
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Base(DeclarativeBase):
    """The tables of this test."""


class End(Enum):
    """How a call ended."""

    BUSY = 1
    ANSWERED = 2


class Guid(sa.types.TypeDecorator[uuid.UUID]):
    """A UUID that is text on one database and has a type of its own on the other."""

    impl = sa.String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return what the database stores."""
        stored: sa.types.TypeEngine[Any] = sa.String(36)
        if dialect.name == "postgresql":
            stored = sa.Uuid(as_uuid=False)
        return dialect.type_descriptor(stored)

    def process_bind_param(self, value: uuid.UUID | None, _: sa.Dialect) -> str | None:
        """Return the text of a UUID."""
        return None if value is None else str(value)

    def process_result_value(
        self, value: str | None, _: sa.Dialect
    ) -> uuid.UUID | None:
        """Return the UUID of a text."""
        return None if value is None else uuid.UUID(value)


class Call(SoftDeleteMixin, Base):
    """A call: ties, NULLs and every type that an order is likely to have."""

    __tablename__ = "calls"
    __table_args__ = (sa.Index("ix_calls_started", "started_at", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(default=1)
    started_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    answered_by: Mapped[str | None]
    seconds: Mapped[int | None]
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))
    trace: Mapped[uuid.UUID | None]
    leg: Mapped[uuid.UUID | None] = mapped_column(Guid)
    loss: Mapped[float | None] = mapped_column(sa.Double)
    rate: Mapped[Decimal | None] = mapped_column(sa.Numeric)
    lasted: Mapped[timedelta | None]
    end: Mapped[End | None]


def row(number: int) -> dict[str, object]:
    """Return a call with values that others share, and NULLs."""
    return {
        "id": number,
        "tenant_id": 1 + number % 2,
        "started_at": NOON + timedelta(microseconds=number % 5),
        "answered_by": [None, "ada", "grace"][number % 3],
        "seconds": [None, 0, 7, 60][number % 4],
        "price": [None, Decimal("0.10"), Decimal("12.34")][number % 3],
        "trace": [None, uuid.UUID(int=1), uuid.UUID(int=2)][number % 3],
        "leg": [None, uuid.UUID(int=1), uuid.UUID(int=2)][number % 3],
        "loss": [None, INFINITE, -INFINITE, math.nan, 0.1 + 0.2][number % 5],
        "rate": [None, *map(Decimal, ("inf", "-inf", "0.1"))][number % 4],
        "lasted": [None, timedelta(0), timedelta(days=40, microseconds=1)][number % 3],
        "end": [None, End.BUSY, End.ANSWERED][number % 3],
    }


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session on 33 calls."""
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        await connection.execute(sa.insert(Call), [row(n) for n in range(1, 34)])
    async with AsyncSession(engine) as session:
        yield session


async def fetch(
    session: AsyncSession,
    *filters: Filter,
    by: str = "",
    limit: int = 4,
    cursor: str | None = None,
    scope: str = "",
) -> CursorPage[Call]:
    """Return a page of calls."""
    request = PageRequest(by, limit, cursor)
    return await cursor_page(
        session, Call, *filters, request=request, secret=SECRET, scope=scope
    )


async def walk(session: AsyncSession, by: str, limit: int = 4) -> list[int]:
    """Return the ids in the order of a walk to the end."""
    page = await fetch(session, by=by, limit=limit)
    seen = [call.id for call in page.items]
    while page.next_cursor:
        assert len(seen) < 99, "the walk has no end"
        page = await fetch(session, by=by, limit=limit, cursor=page.next_cursor)
        seen += [call.id for call in page.items]
    return seen


async def walk_back(session: AsyncSession, by: str, limit: int) -> list[int]:
    """Return the ids of a walk to the end and back, without the last page."""
    page = await fetch(session, by=by, limit=limit)
    while page.next_cursor:
        page = await fetch(session, by=by, limit=limit, cursor=page.next_cursor)
    seen = [call.id for call in page.items]
    while page.previous_cursor:
        page = await fetch(session, by=by, limit=limit, cursor=page.previous_cursor)
        seen = [call.id for call in page.items] + seen
    return seen


FIELDS = ["started_at", "answered_by", "seconds", "price", "trace", "id"]
FIELDS += ["leg", "loss", "rate", "lasted", "end"]
ORDERS = st.lists(
    st.sampled_from([sign + name for name in FIELDS for sign in ("", "-")]), max_size=4
).map(",".join)


@pytest.mark.parametrize("by", [sign + name for name in FIELDS for sign in ("", "-")])
async def test_an_order_by_any_type_gives_each_row_once(
    session: AsyncSession, by: str
) -> None:
    whole = await walk(session, by, 100)

    assert sorted(whole) == list(range(1, 34))
    assert await walk(session, by, 2) == whole
    assert await walk_back(session, by, 2) == whole


@settings(
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(by=ORDERS, limit=st.sampled_from([2, 5, 32, 33, 34]))
async def test_any_order_gives_each_row_once_forwards_and_backwards(
    session: AsyncSession, by: str, limit: int
) -> None:
    whole = await walk(session, by, 100)

    assert sorted(whole) == list(range(1, 34))
    assert await walk(session, by, limit) == whole
    assert await walk_back(session, by, limit) == whole


@pytest.mark.parametrize("by", ["", "-started_at", "seconds,-started_at", "-price"])
async def test_rows_that_come_and_go_neither_repeat_nor_hide_others(
    session: AsyncSession, by: str
) -> None:
    page = await fetch(session, by=by)
    seen = [call.id for call in page.items]
    added, gone = 100, set[int]()
    while page.next_cursor:
        added += 1
        victim = seen[-1]  # the very row that the cursor names
        gone.add(victim)
        await session.execute(sa.delete(Call).where(Call.id == victim))
        if added < 120:
            await session.execute(sa.insert(Call).values(**row(added)))
        page = await fetch(session, by=by, cursor=page.next_cursor)
        seen += [call.id for call in page.items]

    assert len(seen) == len(set(seen))
    assert set(range(1, 34)) <= set(seen)


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(by=ORDERS, limit=st.integers(2, 9), data=st.data())
async def test_whatever_comes_and_goes_who_stays_is_met_once(
    session: AsyncSession, by: str, limit: int, data: st.DataObject
) -> None:
    await session.rollback()  # what an example before this one left
    present = set(range(1, 34))
    stayed, seen, cursor = set(present), list[int](), None
    for number in range(100, 200):
        page = await fetch(session, by=by, limit=limit, cursor=cursor)
        seen += [call.id for call in page.items]
        if (cursor := page.next_cursor) is None:
            break
        present.add(number)
        await session.execute(sa.insert(Call).values(**row(number)))
        gone = data.draw(st.sets(st.sampled_from(sorted(present)), max_size=3))
        await session.execute(sa.delete(Call).where(Call.id.in_(gone)))
        present -= gone
        stayed -= gone

    assert cursor is None
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)


async def test_null_is_greater_than_every_value_in_both_directions(
    session: AsyncSession,
) -> None:
    up = (await fetch(session, by="seconds", limit=33)).items
    down = (await fetch(session, by="-seconds", limit=33)).items

    assert [up[0].seconds, up[-1].seconds] == [0, None]
    assert [down[0].seconds, down[-1].seconds] == [None, 0]


async def test_times_that_the_database_filled_in_are_walked_through(
    session: AsyncSession,
) -> None:
    await session.execute(sa.delete(Call))
    for number in range(1, 10):
        await session.execute(sa.insert(Call).values(id=number))

    assert sorted(await walk(session, "started_at", 2)) == list(range(1, 10))
    assert sorted(await walk(session, "-started_at", 2)) == list(range(1, 10))


async def test_from_an_empty_page_one_can_return(session: AsyncSession) -> None:
    page = await fetch(session, limit=30)
    await session.execute(sa.delete(Call).where(Call.id > 30))
    page = await fetch(session, limit=30, cursor=page.next_cursor)
    assert (page.items, page.next_cursor) == ([], None)

    page = await fetch(session, limit=2, cursor=page.previous_cursor)

    assert [call.id for call in page.items] == [29, 30]


async def test_a_foreign_or_tampered_cursor_is_refused(session: AsyncSession) -> None:
    mine: Filter = {"tenant_id": 1}
    cursor = (await fetch(session, mine, by="seconds", scope="a")).next_cursor
    assert cursor is not None
    swapped = [
        cursor[:n] + ("B" if cursor[n] == "A" else "A") + cursor[n + 1 :]
        for n in range(len(cursor))
    ]
    long = "!" + "A" * 2000 + "é"
    garbage = ["", "x", "\ud800", "é", "A" * 9999, long, cursor + "=", cursor + "!"]
    for bad in [*swapped, *garbage, cursor[:-1]]:
        with pytest.raises(CursorError):
            await fetch(session, mine, by="seconds", cursor=bad, scope="a")

    foreign: list[tuple[Filter, str, str]] = [
        ({"tenant_id": 2}, "seconds", "a"),
        (sa.true(), "seconds", "a"),
        (mine, "-seconds", "a"),
        (mine, "", "a"),
        (mine, "seconds", "b"),
    ]
    for filters, by, scope in foreign:
        with pytest.raises(CursorError):
            await fetch(session, filters, by=by, cursor=cursor, scope=scope)
    page = await fetch(session, mine, by="seconds", cursor=cursor, scope="a")
    assert len(page.items) == 4


async def test_the_members_of_a_set_may_come_in_any_order(
    session: AsyncSession,
) -> None:
    one, other = {8, 16}, {16, 8}
    assert one == other
    assert [*one] != [*other]
    page = await fetch(session, {"id": one}, limit=1)
    page = await fetch(session, {"id": other}, limit=1, cursor=page.next_cursor)
    assert [call.id for call in page.items] == [16]


def test_what_fits_a_cursor_is_read_back_and_what_does_not_is_refused() -> None:
    refused = []
    for length in range(1400, 1500):
        position = False, ("x" * length,)
        try:
            cursor = encode_cursor(position, SECRET, "")
        except ValueError:
            refused.append(length)
        else:
            assert decode_cursor(cursor, SECRET, "", [str]) == position
    assert 0 < len(refused) < 100


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cursor=st.text(max_size=100))
async def test_no_text_of_a_stranger_is_a_cursor(
    session: AsyncSession, cursor: str
) -> None:
    with pytest.raises(CursorError):
        await fetch(session, cursor=cursor)


async def test_the_limit_is_bounded_and_a_short_secret_refused(
    session: AsyncSession,
) -> None:
    for limit in (-1, 0, 101):
        with pytest.raises(ValueError, match="limit"):
            await fetch(session, limit=limit)
    with pytest.raises(ValueError, match="secret"):
        await cursor_page(
            session, Call, request=PageRequest(), secret=b"short", scope=""
        )


async def test_the_type_of_a_row_is_inferred(session: AsyncSession) -> None:
    page = await cursor_page(
        session, Call, request=PageRequest(), secret=SECRET, scope=""
    )
    assert_type(page, CursorPage[Call])


async def test_the_filters_of_a_repository_narrow_every_page(
    session: AsyncSession,
) -> None:
    calls = BaseRepository(Call, session)
    mine: Filter = {"tenant_id": 1, "answered_by": {"ada", None}}
    expected = [call.id for call in (await calls.list(mine)).items]

    page = await fetch(calls.session, mine, limit=3)
    seen = [call.id for call in page.items]
    while page.next_cursor:
        page = await fetch(calls.session, mine, limit=3, cursor=page.next_cursor)
        seen += [call.id for call in page.items]
    assert seen == expected


@pytest.mark.usefixtures("session")
async def test_a_softly_deleted_row_is_on_no_page(engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine)
    install_soft_delete(sessions, actor=lambda: "ada")
    async with sessions() as own:
        page = await fetch(own)
        assert await soft_delete(own, Call, 4)
        assert await soft_delete(own, Call, 5)
        page = await fetch(own, cursor=page.next_cursor)
        assert [call.id for call in page.items] == [6, 7, 8, 9]


async def test_naive_paging_by_offset_loses_rows(
    session: AsyncSession, proof: Proof
) -> None:
    query = sa.select(Call).where(Call.id <= 12).order_by(Call.id)
    rows, cursor = await naive_page(session, query, 3)
    seen = {call.id for call in rows}
    await session.execute(sa.delete(Call).where(Call.id <= 3))
    while rows:
        rows, cursor = await naive_page(session, query, 3, cursor)
        seen |= {call.id for call in rows}

    assert len(seen) == 9
    proof.breaks("the first page's rows are deleted during a walk", "9 of 12 rows seen")


async def test_the_wiring_pages_and_answers_400_to_a_bad_cursor(
    database_url: str,
) -> None:
    engine, sessions = create_engine_and_sessions(database_url)
    await create_tables(engine, wiring.Base.metadata)
    async with engine.begin() as connection:
        rows = [{"tenant_id": 1, "seconds": n % 2} for n in range(5)]
        await connection.execute(sa.insert(wiring.Call), rows)
    app = FastAPI()
    app.state.sessions = sessions
    wiring.add_calls(app, SECRET)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        first = (await client.get("/tenants/1/calls?limit=3")).json()
        cursor = first["next_cursor"]
        rest = await client.get("/tenants/1/calls", params={"cursor": cursor})
        other = await client.get("/tenants/2/calls", params={"cursor": cursor})
        junk = await client.get("/tenants/1/calls", params={"cursor": "A" * 5000})
        empty = await client.get("/tenants/1/calls?cursor=")
    await engine.dispose()

    ids = [call["id"] for call in first["items"] + rest.json()["items"]]
    assert sorted(ids) == [1, 2, 3, 4, 5]
    assert [other.status_code, junk.status_code, empty.status_code] == [400] * 3
