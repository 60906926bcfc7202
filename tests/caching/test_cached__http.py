"""Cached functions in FastAPI: as the wiring shows, and as dependencies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import uuid4

import httpx
import pytest
from fastapi import Depends, FastAPI
from redis.asyncio import Redis

from snippets.caching.cached import Cache, cached
from snippets.caching.cached_wiring import User, create_app
from tests.support.redis_servers import RedisServer, free_port

Users = dict[tuple[str, int], str]


@pytest.fixture
def user_id() -> int:
    """A user whom no other test asks for."""
    return uuid4().int


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application, and yield a client of it."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_each_tenant_is_served_its_own_user_from_the_cache(
    redis_url: str, user_id: int
) -> None:
    users: Users = {("acme", user_id): "Ada", ("globex", user_id): "Grace"}
    async with running(create_app(redis_url, users)) as http:
        for _ in ("miss", "hit"):
            for tenant, name in (("acme", "Ada"), ("globex", "Grace")):
                answer = await http.get(
                    f"/users/{user_id}", headers={"X-Tenant": tenant}
                )
                user = User(id=user_id, tenant=tenant, name=name)
                assert User.model_validate(answer.json()) == user
            users.clear()  # what is answered now is from the cache


async def test_a_changed_user_is_served_changed(redis_url: str, user_id: int) -> None:
    users: Users = {("acme", user_id): "Ada"}
    acme = {"X-Tenant": "acme"}
    async with running(create_app(redis_url, users)) as http:
        await http.get(f"/users/{user_id}", headers=acme)
        changed = await http.put(f"/users/{user_id}?name=Ada+Lovelace", headers=acme)
        answer = await http.get(f"/users/{user_id}", headers=acme)

    assert changed.status_code == 204
    assert answer.json()["name"] == "Ada Lovelace"


async def test_a_request_without_a_tenant_is_refused(
    redis_url: str, user_id: int
) -> None:
    async with running(create_app(redis_url, {})) as http:
        assert (await http.get(f"/users/{user_id}")).status_code == 422


async def test_requests_are_answered_without_redis(user_id: int) -> None:
    users: Users = {("acme", user_id): "Ada"}
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with running(create_app(url, users)) as http:
        answer = await http.get(f"/users/{user_id}", headers={"X-Tenant": "acme"})

    assert answer.json()["name"] == "Ada"


async def test_a_cached_function_is_a_dependency_like_any_other(
    redis: Redis, redis_server: RedisServer
) -> None:
    app = FastAPI()
    runs = 0

    @cached(Cache(lambda: redis, redis_server.namespace), ttl=300, vary=None)
    async def get_name(user_id: int) -> str:
        nonlocal runs
        runs += 1
        return f"user {user_id}"

    @app.get("/users/{user_id}/name")
    async def show(name: Annotated[str, Depends(get_name)]) -> str:
        return name

    async with running(app) as http:
        answers = [(await http.get("/users/7/name")).json() for _ in range(3)]

    assert answers == ["user 7"] * 3
    assert runs == 1
