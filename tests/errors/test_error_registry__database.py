"""What a client is told of a database's refusal, on each database."""

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.plugin import Proof
from snippets.database.async_session import SessionDep, create_engine_and_sessions
from snippets.database.conflict import ConflictError, write_or_conflict
from snippets.database.optimistic_lock import VersionMixin, install_optimistic_lock
from snippets.database.pool import PoolSettings
from snippets.errors.error_registry import AppError, ErrorCode
from snippets.errors.error_registry_wiring import (
    REFERENCE,
    REJECTED,
    TAKEN,
    conflict,
    create_registry,
)
from snippets.errors.safe_errors import install_safety_net
from tests.support.counters import count_sql
from tests.support.problems import CANARY, client_of, log_text, problem, records

VIOLATIONS = {
    "unique": ({"id": 2, "number": CANARY}, 409, "/problems/taken"),
    "primary key": ({"id": 1, "number": "1002"}, 409, "/problems/taken"),
    "foreign key": (
        {"id": 2, "number": CANARY + "x", "owner": 99},
        409,
        "/problems/reference",
    ),
    "not null": ({"id": 2, "number": None}, 422, "/problems/rejected"),
    "check": ({"id": 2, "number": ""}, 422, "/problems/rejected"),
}


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(VersionMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Extension(Base):
    """A number of a user."""

    __tablename__ = "extensions"
    __table_args__ = (sa.CheckConstraint("number <> ''", name="ck_extensions_number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    owner: Mapped[int | None] = mapped_column(sa.ForeignKey(User.id))
    deputy: Mapped[int | None] = mapped_column(
        sa.ForeignKey(User.id, ondelete="RESTRICT")
    )
    label: Mapped[str | None] = mapped_column(sa.String(5))


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[FastAPI]:
    """An application with one user and one extension, and one connection for all."""
    settings = PoolSettings(size=1, overflow=0, checkout_timeout=0.05)
    options = settings.engine_options(database_url)
    engine, sessions = create_engine_and_sessions(database_url, **options)
    install_optimistic_lock(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions.begin() as session:
        session.add(User(id=1, name="Ada"))
        session.add(Extension(id=1, number=CANARY))
    app = FastAPI()
    app.state.sessions, app.state.engine = sessions, engine
    create_registry().install(app)

    @app.post("/flushed")
    async def flushed(values: dict[str, str | int | None], session: SessionDep) -> None:
        session.add(Extension(**values))

    @app.post("/written")
    async def written(values: dict[str, str | int | None], session: SessionDep) -> None:
        insert = sa.insert(Extension).values(values).returning(Extension)
        await write_or_conflict(session, Extension, insert)

    yield app
    await engine.dispose()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with client_of(install_safety_net(app, environment="production")) as client:
        yield client


@pytest.mark.parametrize("path", ["/flushed", "/written"])
@pytest.mark.parametrize("rule", VIOLATIONS)
async def test_a_violated_constraint_has_a_stable_code_and_shows_no_sql(
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    rule: str,
    path: str,
) -> None:
    caplog.set_level(logging.INFO, "snippets")
    values, status, code = VIOLATIONS[rule]

    response = await client.post(path, json=values)

    document = problem(response, status)
    assert document["type"] == code
    for word in (CANARY, "INSERT", "extensions", "constraint", "Error"):
        assert word not in response.text + str(response.headers)
    (record,) = records(caplog)
    assert code in record.getMessage()
    assert CANARY not in log_text(caplog)


@pytest.mark.parametrize("column", ["owner", "deputy"])
async def test_a_row_that_is_in_use_is_a_conflict_with_restrict_and_without(
    app: FastAPI,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    column: str,
) -> None:
    caplog.set_level(logging.INFO, "snippets")

    @app.delete("/users/{key}")
    async def delete(key: int, session: SessionDep) -> None:
        await session.execute(sa.delete(User).where(User.id == key))

    values = {"id": 2, "number": "1002", column: 1}
    assert (await client.post("/flushed", json=values)).status_code == 200

    document = problem(await client.delete("/users/1"), 409)

    assert document["type"] == "/problems/reference"
    (record,) = records(caplog)
    assert "/problems/reference" in record.getMessage()


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("23001", REFERENCE),
        ("23P01", TAKEN),
        ("22001", REJECTED),
        ("22003", REJECTED),
        ("22012", None),
    ],
)
def test_what_only_some_versions_and_columns_raise_has_a_code(
    state: str, code: ErrorCode | None
) -> None:
    class RefusedError(Exception):
        """What a driver raises."""

        sqlstate = state

    assert create_registry().code_of(DBAPIError("", None, RefusedError())) is code


async def test_a_text_that_does_not_fit_its_column_is_a_422_where_it_is_refused(
    client: httpx.AsyncClient, database_backend: str, proof: Proof
) -> None:
    stored = database_backend == "sqlite"
    for key, label in ((2, "toolong"), (3, "a\0b")):
        values = {"id": key, "number": f"100{key}", "label": label}
        response = await client.post("/flushed", json=values)
        if stored:
            assert response.status_code == 200
        else:
            assert problem(response, 422)["type"] == "/problems/rejected"
    said = "Is stored." if stored else "Is refused: 422."
    proof.differs("A text that is too long, or has a NUL", said)


async def test_a_number_beyond_its_column_is_a_500_unless_the_model_bounds_it(
    client: httpx.AsyncClient,
) -> None:
    values = {"id": 2**70, "number": "1002"}
    problem(await client.post("/flushed", json=values), 500)


async def test_the_answer_costs_no_statement(
    app: FastAPI, client: httpx.AsyncClient, proof: Proof
) -> None:
    with count_sql(app.state.engine) as statements:
        problem(await client.post("/flushed", json={"id": 2, "number": ""}), 422)
    assert statements.total == 1
    assert "INSERT" in statements.texts[0]
    proof.cost("a violated constraint", further_statements=0)


async def test_each_driver_names_a_violation_in_its_own_way(
    app: FastAPI, database_backend: str, proof: Proof
) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with app.state.sessions.begin() as session:
            session.add(Extension(id=2, number=CANARY))

    driver = raised.value.orig
    if database_backend == "sqlite":
        assert vars(driver)["sqlite_errorname"] == "SQLITE_CONSTRAINT_UNIQUE"
        said = "By name: SQLITE_CONSTRAINT_UNIQUE."
    else:
        assert getattr(driver, "sqlstate", "") == "23505"
        said = "By SQLSTATE: 23505, and the constraint's name on the cause."
    proof.differs("How the driver names a violation", said)


async def test_the_second_of_two_writers_is_a_conflict(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.put("/users/1")
    async def rename(seen: int, name: str, session: SessionDep) -> None:
        user = sa.update(User).where(User.id == 1)
        await session.execute(user.values(version=seen, name=name))

    async with app.state.sessions() as session:
        seen = await session.scalar(sa.select(User.version))
    both = [{"seen": seen, "name": "Ada L."}, {"seen": seen, "name": CANARY}]
    responses = [await client.put("/users/1", params=one) for one in both]

    assert responses[0].status_code == 200
    assert problem(responses[1], 409)["type"] == "/problems/stale"
    assert CANARY not in responses[1].text


async def test_an_exhausted_pool_is_a_503_with_retry_after(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with app.state.engine.connect():
        response = await client.post("/flushed", json={"id": 2, "number": "1002"})

    assert problem(response, 503)["type"] == "/problems/busy"
    assert response.headers["retry-after"] == "5"
    assert "QueuePool" not in response.text
    (record,) = [one for one in records(caplog) if one.levelno == logging.ERROR]
    assert "QueuePool limit" in log_text(caplog)
    assert record.exc_info


async def test_another_error_of_the_database_is_a_500_without_its_sql(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.get("/broken")
    async def broken(session: SessionDep) -> None:
        await session.execute(sa.text("SELECT :pin FROM nowhere"), {"pin": CANARY})

    response = await client.get("/broken")

    assert problem(response, 500)["type"] == "about:blank"
    assert CANARY not in response.text
    assert "nowhere" not in response.text


def test_a_conflict_of_which_nothing_is_known_is_still_a_conflict() -> None:
    code = conflict(ConflictError(User, None))
    assert code
    assert code.status == 409


async def test_an_error_of_the_services_own_from_a_conflict_hides_it_too(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    class NumberTakenError(AppError):
        """What this service calls it."""

        code = TAKEN

    @app.post("/own")
    async def own(session: SessionDep) -> None:
        insert = sa.insert(Extension).values(id=2, number=CANARY).returning(Extension)
        try:
            await write_or_conflict(session, Extension, insert)
        except ConflictError as error:
            raise NumberTakenError(CANARY) from error

    caplog.set_level(logging.INFO, "snippets")
    response = await client.post("/own")

    problem(response, 409)
    assert CANARY not in response.text + log_text(caplog)
    (record,) = records(caplog)
    assert record.getMessage().endswith("NumberTakenError from ConflictError")
