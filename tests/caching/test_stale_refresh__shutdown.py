"""At shutdown refreshes are waited for, within their lease, and none is left."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from snippets.caching.redis_client import create_redis
from snippets.caching.stale_refresh_wiring import create_app, tenant
from tests.support.redis_servers import RedisServer
from tests.support.stale_refresh import (
    ADA,
    ADA_MARRIED,
    DUE,
    Load,
    Service,
    User,
    Users,
)


@pytest.fixture
def service() -> Service:
    """A service that has just begun."""
    return Service()


@pytest.fixture
def users(redis: Redis, service: Service) -> Users:
    """Users in this test's Redis."""
    return service.users(redis)


@pytest.fixture
async def due(users: Users, redis_server: RedisServer, service: Service) -> str:
    """The key of a user who is kept, and whose refresh is due."""
    key = f"{redis_server.namespace}:user:7"
    await users.get(key, Load.of(ADA))
    service.now += DUE
    return key


async def test_a_running_refresh_is_waited_for_and_stored(
    users: Users, due: str
) -> None:
    load = Load.held(ADA_MARRIED)
    closing = asyncio.Event()

    async def serve() -> None:
        async with users:
            await users.get(due, load)
            await load.begun.wait()
            closing.set()

    server = asyncio.create_task(serve())
    await closing.wait()
    await asyncio.sleep(0)
    assert not server.done()
    load.gate.set()
    await server

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await users.get(due, Load.of(None)) == ADA_MARRIED


async def test_after_the_end_no_refresh_begins_until_it_is_opened_again(
    users: Users, due: str
) -> None:
    load = Load.of(ADA_MARRIED)
    async with users:
        pass

    assert await users.get(due, load) == ADA
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with users:
        assert await users.get(due, load) == ADA
    assert await users.get(due, load) == ADA_MARRIED
    assert load.runs == 1


async def test_when_the_shutdown_itself_is_cancelled_so_are_the_refreshes(
    users: Users, due: str, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    load = Load.held(ADA_MARRIED)

    async def serve() -> None:
        async with users:
            await users.get(due, load)
            await load.begun.wait()

    server = asyncio.create_task(serve())
    await load.begun.wait()
    await asyncio.sleep(0)
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server

    assert load.cancelled == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert service.told == {}
    assert not caplog.records


@pytest.mark.parametrize("make_load", [Load.of, Load.held], ids=["ends", "hangs"])
def test_nothing_is_destroyed_while_it_is_pending(
    redis_url: str,
    make_load: Callable[[User], Load],
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, key, load = Service(), f"test-{uuid4().hex}", make_load(ADA_MARRIED)

    async def serve() -> None:
        async with (
            create_redis(redis_url) as redis,
            service.users(redis, limit=service.limit) as users,
        ):
            await users.get(key, Load.of(ADA))
            service.now += DUE
            await users.get(key, load)
            await redis.pexpire(key, 60_000)
            await load.begun.wait()
            if not load.gate.is_set():
                asyncio.get_running_loop().call_soon(service.end_leases)

    asyncio.run(asyncio.wait_for(serve(), 60))
    gc.collect()

    assert load.runs == 1
    hangs = not load.gate.is_set()
    assert load.cancelled == hangs
    assert service.told == ({("users", "refresh"): 1} if hangs else {})
    assert not [one for one in caplog.records if one.name == "asyncio"]


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application, and yield a client of it."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_an_application_ends_its_refreshes_before_it_closes_redis(
    redis_url: str,
) -> None:
    now, tenants = 1000, {f"test-{uuid4().hex}": number for number in (1, 2)}

    async def count_calls() -> int:
        return now * tenants[tenant.get()]

    app = create_app(redis_url, count_calls, clock=lambda: now)
    for moment, seen in ((1000, 1000), (1029, 1000), (1030, 1000), (1031, 1030)):
        now = moment
        async with running(app) as http:
            for name, number in tenants.items():
                answer = await http.get("/calls/open", headers={"X-Tenant": name})
                assert answer.json() == seen * number

    async with running(app) as http:
        for name, number in tenants.items():
            headers = {"X-Tenant": name}
            assert (await http.delete("/calls/open", headers=headers)).is_success
            answer = await http.get("/calls/open", headers=headers)
            assert answer.json() == 1031 * number
        assert (await http.get("/calls/open")).status_code == 422
