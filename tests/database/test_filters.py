"""Fields, values and orders that a client names mean what they say, or nothing."""

from collections.abc import AsyncIterator, Mapping

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    mapped_column,
    relationship,
    synonym,
)

from catalogue.plugin import Proof
from snippets.database.filters import (
    AnyOf,
    Contains,
    FieldError,
    Filter,
    order,
    where,
)
from snippets.database.filters_naive import matching, searching
from tests.support.databases import create_tables


class Base(DeclarativeBase):
    """The tables of this test."""


class Tenant(Base):
    """A customer of the telephony platform."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)


class Extension(Base):
    """A tenant's extension; its number is unique within the tenant."""

    __tablename__ = "extensions"

    tenant_id: Mapped[int] = mapped_column(
        sa.ForeignKey("tenants.id"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str | None] = mapped_column("ext_label")
    floor: Mapped[int | None]
    tenant: Mapped[Tenant] = relationship()
    title: Mapped[str] = synonym("label")
    doubled: Mapped[int] = column_property(sa.literal_column("number * 2"))

    @hybrid_property
    def full(self) -> str:
        """The number with the tenant's."""
        return f"{self.tenant_id}-{self.number}"

    @property
    def short(self) -> str:
        """The number as text."""
        return str(self.number)


ROWS: list[dict[str, object]] = [
    {"number": 1, "label": "Reception", "floor": 1},
    {"number": 2, "label": "reception desk", "floor": 2},
    {"number": 3, "label": "100%", "floor": 2},
    {"number": 4, "label": "100 per cent", "floor": None},
    {"number": 5, "label": "a_b", "floor": 3},
    {"number": 6, "label": "axb", "floor": 3},
    {"number": 7, "label": "a\\b", "floor": 3},
    {"number": 8, "label": "a/b", "floor": 1},
    {"number": 9, "label": "", "floor": 1},
    {"number": 10, "label": None, "floor": None},
]


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session on the ten extensions of one tenant."""
    await create_tables(engine, Base.metadata)
    async with engine.begin() as connection:
        await connection.execute(sa.insert(Tenant).values(id=1))
    async with AsyncSession(engine) as session:
        rows = [{"tenant_id": 1, **row} for row in ROWS]
        await session.execute(sa.insert(Extension), rows)
        yield session


async def numbers(session: AsyncSession, *filters: Filter) -> set[int]:
    """Return the numbers of the extensions that match all filters."""
    conditions = [where(Extension, each) for each in filters]
    query = sa.select(Extension.number).where(*conditions)
    return set((await session.scalars(query)).all())


async def ordered(session: AsyncSession, by: str) -> list[int]:
    """Return the numbers of all extensions in an order."""
    query = sa.select(Extension.number).order_by(*order(Extension, by))
    return list((await session.scalars(query)).all())


NO_COLUMNS = [
    "emial",
    "tenant",
    "title",
    "doubled",
    "full",
    "short",
    "ext_label",
    "metadata",
    "registry",
    "__tablename__",
    "__class__",
    "number desc; drop table tenants",
    "",
]


@pytest.mark.parametrize("name", NO_COLUMNS)
def test_a_name_that_is_not_a_mapped_column_is_refused_by_name(name: str) -> None:
    with pytest.raises(FieldError) as in_filter:
        where(Extension, {name: 1})
    with pytest.raises(FieldError) as in_alternative:
        where(Extension, AnyOf([{"number": 1}, {name: 1}]))
    with pytest.raises(FieldError) as in_order:
        order(Extension, f"number,-{name}")

    for caught in (in_filter, in_alternative, in_order):
        assert caught.value.field == name
        assert str(caught.value) == f"Extension.{name} is not a column"


def test_a_refused_name_cannot_write_a_line_of_its_own_into_a_log() -> None:
    name = "x\nERROR \u202eforged"
    with pytest.raises(FieldError) as caught:
        where(Extension, {name: 1})

    assert caught.value.field == name
    assert str(caught.value) == r"Extension.x\nERROR \u202eforged is not a column"


async def test_a_field_equals_its_value(session: AsyncSession) -> None:
    assert await numbers(session, {"label": "a_b"}) == {5}


async def test_all_fields_of_a_mapping_must_match(session: AsyncSession) -> None:
    assert await numbers(session, {"floor": 3, "label": "axb"}) == {6}


async def test_a_mapping_without_fields_matches_every_row(
    session: AsyncSession,
) -> None:
    assert len(await numbers(session, {})) == len(ROWS)


async def test_several_values_match_any_of_them(session: AsyncSession) -> None:
    for values in ([3, 4, 99], (3, 4), {3, 4}, frozenset({3, 4})):
        assert await numbers(session, {"number": values}) == {3, 4}


async def test_no_values_match_no_row(session: AsyncSession) -> None:
    assert await numbers(session, {"number": []}) == set()


async def test_none_matches_null(session: AsyncSession) -> None:
    assert await numbers(session, {"floor": None}) == {4, 10}


async def test_none_among_several_values_matches_null(
    session: AsyncSession,
) -> None:
    assert await numbers(session, {"floor": [2, None]}) == {2, 3, 4, 10}
    assert await numbers(session, {"floor": [None]}) == {4, 10}


async def test_text_is_searched_for_literally_and_in_either_case(
    session: AsyncSession,
) -> None:
    found: dict[str, set[int]] = {
        "%": {3},
        "_": {5},
        "\\": {7},
        "/": {8},
        "100%": {3},
        "a_": {5},
        "RECEPTION": {1, 2},
        "": {1, 2, 3, 4, 5, 6, 7, 8, 9},
        "' OR 1=1 --": set(),
    }

    assert found == {
        text: await numbers(session, {"label": Contains(text)}) for text in found
    }


async def test_any_of_matches_where_one_filter_does(session: AsyncSession) -> None:
    either = AnyOf([{"number": 1}, {"label": Contains("_")}])

    assert await numbers(session, either) == {1, 5}


async def test_any_of_nothing_matches_no_row(session: AsyncSession) -> None:
    assert await numbers(session, AnyOf([])) == set()


async def test_any_of_widens_no_filter_beside_it(session: AsyncSession) -> None:
    either = AnyOf([{"number": 1}, {"floor": 3, "label": "axb"}])

    assert await numbers(session, {"tenant_id": 2}, either) == set()
    assert await numbers(session, {"tenant_id": 1}, either) == {1, 6}


async def test_a_condition_stands_beside_and_within_other_filters(
    session: AsyncSession,
) -> None:
    assert await numbers(session, Extension.number > 5, {"floor": 3}) == {6, 7}
    assert await numbers(session, AnyOf([Extension.number > 9, {"number": 1}])) == {
        1,
        10,
    }


def test_values_are_bound_and_never_part_of_the_statement() -> None:
    hostile = "x' OR '1'='1"
    condition = where(
        Extension, AnyOf([{"label": hostile}, {"label": Contains(hostile)}])
    )

    assert hostile not in str(sa.select(Extension.number).where(condition))


async def test_an_order_has_several_fields_and_directions(
    session: AsyncSession,
) -> None:
    await session.execute(sa.delete(Extension).where(Extension.floor.is_(None)))

    assert await ordered(session, "-floor,number") == [5, 6, 7, 2, 3, 1, 8, 9]
    assert await ordered(session, "floor,-number") == [9, 8, 1, 3, 2, 7, 6, 5]


async def test_rows_that_are_equal_in_the_order_follow_the_primary_key(
    session: AsyncSession,
) -> None:
    await session.execute(sa.update(Extension).values(floor=1))

    assert await ordered(session, "-floor") == list(range(1, 11))
    assert await ordered(session, "") == list(range(1, 11))


def test_every_part_of_the_primary_key_breaks_ties() -> None:
    parts = [str(part) for part in order(Extension, "")]

    assert parts == ["extensions.tenant_id", "extensions.number"]


async def test_a_field_counts_once_however_often_it_is_named(
    session: AsyncSession,
) -> None:
    by = "-floor," * 2_500 + "floor"
    assert len(order(Extension, by)) == len(order(Extension, "-floor"))
    assert await ordered(session, by) == await ordered(session, "-floor")


async def test_where_null_sorts(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    ranked = [1, 8, 9, 2, 3, 5, 6, 7]
    expected = {"sqlite": [4, 10, *ranked], "postgresql": [*ranked, 4, 10]}

    rising = await ordered(session, "floor")

    assert rising == expected[database_backend]
    proof.differs(
        "NULL sorts, in ascending order,", "first" if rising[0] == 4 else "last"
    )


async def test_the_case_of_letters_beyond_ascii(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    finds = {"sqlite": False, "postgresql": True}
    change = sa.update(Extension).where(Extension.number == 1).values(label="ÄRZTE")
    await session.execute(change)

    found = await numbers(session, {"label": Contains("ärzte")})

    assert bool(found) is finds[database_backend]
    assert await numbers(session, {"label": Contains("Ärzte")}) >= found
    proof.differs(
        "Text search ignores case",
        "in every alphabet" if found else "of the letters A to Z only",
    )


async def test_a_value_of_another_type(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    if database_backend == "sqlite":
        assert await numbers(session, {"number": "1"}) == {1}
        assert await numbers(session, {"number": "one"}) == set()
        behaviour = "is converted, or matches nothing"
    else:
        with pytest.raises(DBAPIError):
            await numbers(session, {"number": "1"})
        behaviour = "raises DBAPIError and fails the transaction"
    proof.differs("A text as the value of a number's field", behaviour)


async def test_a_nul_character_in_text(
    session: AsyncSession, database_backend: str, proof: Proof
) -> None:
    if database_backend == "sqlite":
        assert await numbers(session, {"label": Contains("Rec\0")}) == set()
        behaviour = "matches nothing"
    else:
        with pytest.raises(DBAPIError):
            await numbers(session, {"label": Contains("Rec\0")})
        behaviour = "raises DBAPIError and fails the transaction"
    proof.differs("A NUL character in the text to search for", behaviour)


texts = st.text("aAbB01%_\\/", max_size=4)
floors = st.none() | st.integers(0, 4)
labels = st.none() | texts | st.sampled_from([row["label"] for row in ROWS])
mappings = st.fixed_dictionaries(
    {},
    optional={
        "number": st.integers(0, 11) | st.lists(st.integers(0, 11), max_size=4),
        "floor": floors | st.lists(floors, max_size=3) | st.sets(floors, max_size=3),
        "label": labels | st.lists(labels, max_size=3) | texts.map(Contains),
    },
)
filters = st.recursive(
    mappings, lambda inner: st.lists(inner, max_size=3).map(AnyOf), max_leaves=6
)


def matches(row: Mapping[str, object], given_filter: Filter) -> bool:
    """Say in plain Python whether a row matches."""
    if isinstance(given_filter, AnyOf):
        return any(matches(row, each) for each in given_filter.filters)
    assert isinstance(given_filter, Mapping)
    return all(equals(row[name], value) for name, value in given_filter.items())


def equals(stored: object, value: object) -> bool:
    """Say in plain Python whether a stored value is what a filter asks for."""
    if isinstance(value, Contains):
        return isinstance(stored, str) and value.text.lower() in stored.lower()
    if isinstance(value, list | set):
        return stored in value
    return stored == value


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(given_filters=st.lists(filters, max_size=3))
async def test_filters_choose_the_rows_that_plain_python_would(
    session: AsyncSession, given_filters: list[Filter]
) -> None:
    expected = {
        row["number"]
        for row in ROWS
        if all(matches(row, each) for each in given_filters)
    }

    assert await numbers(session, *given_filters) == expected


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    by=st.lists(
        st.sampled_from(["tenant_id", "-tenant_id", "number", "-number"]), max_size=3
    )
)
async def test_orders_sort_as_plain_python_would(
    session: AsyncSession, by: list[str]
) -> None:
    down = "-number" in by and "number" not in by[: by.index("-number")]

    assert await ordered(session, ",".join(by)) == sorted(range(1, 11), reverse=down)


async def test_the_naive_version_lets_a_name_switch_the_filter_off(
    session: AsyncSession, proof: Proof
) -> None:
    query = matching(Extension, {"__tablename__": "extensions"})

    assert len((await session.execute(query)).all()) == len(ROWS)
    proof.breaks("A client filters by the name __tablename__", "every row is returned")


def test_the_naive_version_fails_on_a_misspelt_name(proof: Proof) -> None:
    with pytest.raises(AttributeError):
        matching(Extension, {"emial": "x"})
    proof.breaks("A client misspells a field", "AttributeError: a server error")


async def test_the_naive_version_takes_no_list(
    session: AsyncSession, proof: Proof
) -> None:
    with pytest.raises(DBAPIError):
        await session.execute(matching(Extension, {"number": [1, 2]}))
    proof.breaks("A client gives two values for a field", "the driver's error")


async def test_the_naive_search_takes_text_for_a_pattern(
    session: AsyncSession, proof: Proof
) -> None:
    async def found(text: str) -> set[int]:
        rows = await session.scalars(searching(Extension, "label", text))
        return {row.number for row in rows}

    assert await found("100%") == {3, 4}
    assert await found("a_b") == {5, 6, 7, 8}
    proof.breaks("A client searches for a_b", "a/b, axb and a\\b are found as well")
