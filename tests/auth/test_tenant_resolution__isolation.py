"""All five patterns in one service: two requests, interleaved at every await."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from fastapi import Depends, FastAPI
from redis.asyncio import Redis
from sqlalchemy import select

from snippets.auth.require_acl import require_acl
from snippets.auth.tenancy import bypass_tenancy, current_tenant
from snippets.auth.tenant_resolution import ActiveTenants, get_tenant
from snippets.auth.tenant_resolution_wiring import Base, Extension, create_app
from snippets.auth.token_auth import AuthUser
from snippets.auth.token_cache import TokenCache
from snippets.caching.cached import Cache
from snippets.database.async_session import (
    SessionDep,
    create_engine_and_sessions,
    session_scope,
)
from tests.support.auth_clients import FakeWorld
from tests.support.auth_service import ACME, GLOBEX
from tests.support.redis_servers import RedisServer
from tests.support.turns import alternating, count_steps, interrupted

LONG = 100 * 365 * 86400.0
GRANTS = {
    "ada": ["extensions.read", "extensions.#", "!extensions.9.read"],
    "bob": ["extensions.read", "extensions.2.read"],
}
EXPECTED = {
    "ada": ["ada", ACME, ["1001"], None, ["1001"]],
    "bob": ["bob", GLOBEX, ["2002"], None, ["2002"]],
}
"""Who is asking, for whom, the rows, the other's row, and the cached numbers."""


@dataclass
class Telephony:
    """The service of the wiring, with Ada of ACME and Bob of GLOBEX."""

    make: Callable[[str], FastAPI]
    world: FakeWorld
    asked: list[UUID] = field(default_factory=list)
    runs: int = 0

    def cold(self) -> FastAPI:
        """Return the service with nothing in its caches."""
        self.runs += 1
        return self.make(str(self.runs))


@pytest.fixture
async def telephony(
    database_url: str, redis: Redis, redis_server: RedisServer
) -> AsyncIterator[Telephony]:
    """The service on this test's database and Redis."""
    world = FakeWorld()
    world.log_in("ada", "ada", GRANTS["ada"], tenants=(ACME,), life=LONG)
    world.log_in("bob", "bob", GRANTS["bob"], tenants=(GLOBEX,), life=LONG)
    engine, _ = create_engine_and_sessions(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    asked: list[UUID] = []

    async def is_active(tenant: UUID) -> bool:
        asked.append(tenant)
        await asyncio.sleep(0)
        return True

    def make(name: str) -> FastAPI:
        _, sessions = create_engine_and_sessions(database_url)
        sessions.configure(bind=engine)
        cache = Cache(
            client=lambda: redis, namespace=f"{redis_server.namespace}:{name}"
        )
        app = create_app(world.client, ActiveTenants(is_active), cache, sessions)
        add_whoami(app)
        return app

    app = make("rows")
    with bypass_tenancy():
        async with session_scope(app.state.sessions) as session:
            session.add(Extension(id=1, tenant_id=UUID(ACME), number="1001"))
            session.add(Extension(id=2, tenant_id=UUID(GLOBEX), number="2002"))
    yield Telephony(make, world, asked)
    await engine.dispose()


def add_whoami(app: FastAPI) -> None:
    """Add a route that says all that a request knows."""

    @app.get("/whoami/{other}")
    async def whoami(
        other: int,
        session: SessionDep,
        user: Annotated[AuthUser, Depends(require_acl("extensions.read"))],
        tenant: Annotated[UUID, Depends(get_tenant)],
    ) -> list[object]:
        numbers = (await session.scalars(select(Extension.number))).all()
        found = await session.get(Extension, other)
        assert current_tenant() == tenant
        return [user.auth_id, tenant, numbers, found]


async def ask(app: FastAPI, caller: str) -> list[object]:
    """Return what the service says to somebody, freshly and from its cache."""
    transport = httpx.ASGITransport(app)
    headers = {"X-Auth-Token": caller}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://pbx", headers=headers
    ) as client:
        other = 2 if caller == "ada" else 1
        known = (await client.get(f"/whoami/{other}")).json()
        return [*known, (await client.get("/extensions")).json()]


async def test_two_requests_interleaved_at_every_await_share_nothing(
    telephony: Telephony,
) -> None:
    steps = await count_steps(ask(telephony.cold(), "ada"))
    assert steps > 10
    for after in range(steps):
        app = telephony.cold()
        answers = await interrupted(ask(app, "ada"), ask(app, "bob"), after=after)
        assert answers == (EXPECTED["ada"], EXPECTED["bob"])


async def test_two_requests_that_take_turns_share_nothing_cold_or_warm(
    telephony: Telephony,
) -> None:
    app = telephony.cold()
    assert isinstance(app.state.auth_client, TokenCache)
    for _ in ("cold", "warm"):
        answers = await alternating(ask(app, "ada"), ask(app, "bob"))
        assert answers == (EXPECTED["ada"], EXPECTED["bob"])


async def test_the_scheduler_finds_a_value_that_two_requests_share() -> None:
    shared = ""

    async def careless(name: str) -> str:
        nonlocal shared
        shared = name
        await asyncio.sleep(0)
        return shared

    steps = await count_steps(careless("ada"))
    answers = [
        await interrupted(careless("ada"), careless("bob"), after=after)
        for after in range(steps)
    ]
    assert steps == 2
    assert answers == [("ada", "bob"), ("bob", "bob")]
    assert await alternating(careless("ada"), careless("bob")) == ("bob", "bob")


async def test_each_answer_of_the_service_is_the_one_that_its_pattern_gives(
    telephony: Telephony,
) -> None:
    app = telephony.cold()
    cases: dict[tuple[str, str, str | None], int] = {
        ("ada", "/extensions/1", None): 200,
        ("ada", "/extensions/2", None): 404,  # the other tenant's
        ("ada", "/extensions/3", None): 404,  # nobody's
        ("ada", "/extensions/9", None): 403,  # denied by a grant
        ("ada", f"/extensions/{2**31}", None): 422,  # no id that a row could have
        ("ada", f"/extensions/{10**30}", None): 422,
        ("bob", "/extensions/1", None): 403,
        ("bob", "/extensions/2", None): 200,
        ("ada", "/extensions/1", GLOBEX): 403,
        ("ada", "/extensions/1", "globex"): 400,
        ("eve", "/extensions/1", None): 401,
    }
    seen = {}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        for caller, path, tenant in cases:
            headers = {"X-Auth-Token": caller} | (
                {"Accent-Tenant": tenant} if tenant else {}
            )
            answer = await client.get(path, headers=headers)
            seen[caller, path, tenant] = answer.status_code
        assert seen == cases
        telephony.world.go_down()
        unknown = {"X-Auth-Token": "new"}
        assert (await client.get("/extensions", headers=unknown)).status_code == 503


async def test_openapi_shows_how_to_authenticate_and_what_each_route_requires(
    telephony: Telephony,
) -> None:
    schema: dict[str, Any] = telephony.cold().openapi()
    assert schema["components"]["securitySchemes"] == {
        "X-Auth-Token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
    }
    required = {
        path: (operation["get"]["security"], operation["get"]["x-required-acl"])
        for path, operation in schema["paths"].items()
        if path.startswith("/extensions")
    }
    assert required == {
        "/extensions": ([{"X-Auth-Token": []}], [{"all": ["extensions.read"]}]),
        "/extensions/{key}": (
            [{"X-Auth-Token": []}],
            [{"all": ["extensions.{key}.read"]}],
        ),
    }
