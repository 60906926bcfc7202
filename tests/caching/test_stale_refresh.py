"""A value is refreshed once per window, beside its readers, and never restored."""

import asyncio
from contextvars import ContextVar

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from catalogue.plugin import Proof
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.stale_refresh import StaleRefresh
from snippets.caching.stale_refresh_naive import EagerRefresh
from tests.support.counters import count_round_trips
from tests.support.redis_servers import RedisServer
from tests.support.stale_refresh import (
    ADA,
    ADA_MARRIED,
    DUE,
    TTL,
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
async def due(users: Users, key: str, service: Service) -> str:
    """The key of a user who is kept, and whose refresh is due."""
    await users.get(key, Load.of(ADA))
    service.now += DUE
    return key


@pytest.mark.parametrize("share", [0.8, 0.5])
async def test_a_value_is_refreshed_once_its_share_of_the_ttl_has_passed(
    service: Service, redis: Redis, key: str, share: float
) -> None:
    users = service.users(redis, refresh_at=share)
    load = Load.of(ADA, ADA_MARRIED)
    began = service.now

    for elapsed, runs in ((0.0, 1), (TTL * share - 0.001, 1), (TTL * share, 2)):
        service.now = began + elapsed
        async with users:
            assert await users.get(key, load) == ADA
        assert load.runs == runs
    assert await users.get(key, load) == ADA_MARRIED


@settings(deadline=None)
@given(
    percent=st.integers(1, 89),
    ttl=st.integers(1, 86_400),
    share_of_ttl=st.fractions(0, 1, max_denominator=1000),
    now=st.integers(0, 4_000_000_000),
)
def test_the_share_is_exact_to_the_millisecond(
    percent: int, ttl: int, share_of_ttl: float, now: int
) -> None:
    elapsed_ms = round(share_of_ttl * ttl * 1000)
    service = Service(now)
    load = Load.of(ADA)

    async def read_twice() -> None:
        redis = FakeAsyncRedis()
        users = StaleRefresh[User | None](
            name="users",
            kind=User | None,
            entries=GuardedEntries(client=lambda: redis, ttl=ttl),
            lease=ttl,
            refresh_at=percent / 100,
            clock=lambda: service.now,
        )
        async with redis, users:
            await users.get("user:7", load)
            service.now = now + elapsed_ms / 1000
            await users.get("user:7", load)

    asyncio.run(read_twice())

    assert load.runs == 1 + (elapsed_ms >= percent * ttl * 10)


async def test_the_reader_who_finds_it_due_does_not_wait(
    users: Users, due: str
) -> None:
    load = Load.held(ADA_MARRIED)

    async with users:
        assert await users.get(due, load) == ADA
        await load.begun.wait()
        assert await users.get(due, load) == ADA
        load.gate.set()

    assert await users.get(due, load) == ADA_MARRIED
    assert load.runs == 1


async def test_a_new_value_lives_and_is_refreshed_as_the_first_one_was(
    users: Users, redis: Redis, due: str, service: Service
) -> None:
    await redis.pexpire(due, 30_000)
    load = Load.of(ADA_MARRIED)

    async with users:
        await users.get(due, load)
    assert await redis.pttl(due) > TTL * 0.9 * 1000 - 30_000
    service.now += DUE - 0.001
    async with users:
        await users.get(due, load)
    assert load.runs == 1
    service.now += 0.001
    async with users:
        await users.get(due, load)
    assert load.runs == 2


async def test_200_readers_cost_a_round_trip_each_and_one_execution(
    users: Users, due: str, proof: Proof
) -> None:
    load = Load.held(ADA_MARRIED)

    async with users:
        with count_round_trips() as first:
            await users.get(due, load)
            await load.begun.wait()
        with count_round_trips() as hits:
            for _ in range(199):
                assert await users.get(due, load) == ADA
        with count_round_trips() as last:
            load.gate.set()
            async with users:
                pass

    assert first.commands == ["GET", "EVAL"]
    assert hits.commands == ["GET"] * 199
    assert last.commands == ["EVAL"]
    assert load.runs == 1
    proof.cost("hit, also while a refresh is due or runs", round_trips=1, loads=0)
    proof.cost("refresh, beside the readers", round_trips=2, loads=1)
    proof.cost("refresh window with 200 readers", loads=1)


async def test_200_readers_at_the_same_moment_cause_one_execution(
    users: Users, due: str
) -> None:
    load = Load.of(ADA_MARRIED)

    async with users:
        found = await asyncio.gather(*(users.get(due, load) for _ in range(200)))

    assert found == [ADA] * 200
    assert len({id(user) for user in found}) == 200
    assert load.runs == 1


async def test_of_20_processes_one_executes(
    service: Service, redis_server: RedisServer, users: Users, due: str
) -> None:
    load = Load.held(ADA_MARRIED)
    processes = [service.users(redis_server.client()) for _ in range(20)]

    found = await asyncio.gather(*(each.get(due, load) for each in processes))
    await load.begun.wait()
    found += await asyncio.gather(*(each.get(due, load) for each in processes))
    load.gate.set()
    for each in processes:
        async with each:
            pass

    assert found == [ADA] * 40
    assert load.runs == 1
    assert await users.get(due, load) == ADA_MARRIED


async def test_two_keys_are_refreshed_at_the_same_time(
    users: Users, redis_server: RedisServer, service: Service
) -> None:
    keys = [f"{redis_server.namespace}:user:{number}" for number in (7, 8)]
    for key in keys:
        await users.get(key, Load.of(ADA))
    service.now += DUE
    both = asyncio.Barrier(2)

    async def load() -> User | None:
        await both.wait()
        return ADA_MARRIED

    async with users:
        for key in keys:
            await users.get(key, load)

    for key in keys:
        assert await users.get(key, load) == ADA_MARRIED


async def test_the_refresh_sees_the_tenant_of_its_reader_and_changes_nothing_there(
    users: Users, redis_server: RedisServer, service: Service
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    async def load() -> User | None:
        name = tenant.get()
        tenant.set("nobody")
        return User(name=f"{name} at {service.now}")

    async def read(name: str) -> User | None:
        tenant.set(name)
        user = await users.get(f"{redis_server.namespace}:{name}:user:7", load)
        if service.now > 1000.0:
            assert tenant.get() == name
        return user

    for elapsed, seen in ((0.0, 1000.0), (DUE, 1000.0), (DUE, 1240.0)):
        service.now = 1000.0 + elapsed
        async with users:
            for name in ("acme", "globex"):
                user = await asyncio.create_task(read(name))
                assert user == User(name=f"{name} at {seen}")


async def test_cancelling_the_reader_does_not_cancel_the_refresh(
    users: Users, due: str
) -> None:
    load = Load.held(ADA_MARRIED)

    async def request() -> None:
        await users.get(due, load)
        await asyncio.Event().wait()

    async with users:
        reader = asyncio.create_task(request())
        await load.begun.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        load.gate.set()

    assert await users.get(due, load) == ADA_MARRIED
    assert load.cancelled == 0


async def test_none_is_a_value_and_may_be_the_new_one(
    users: Users, due: str, service: Service
) -> None:
    load = Load.of(None)
    async with users:
        await users.get(due, load)
    service.now += 1

    assert await users.get(due, load) is None
    assert load.runs == 1


@pytest.mark.parametrize("share", [0, -0.1, 0.9, 1, float("nan")])
def test_a_share_that_not_every_entry_reaches_is_refused(
    service: Service, share: float
) -> None:
    with pytest.raises(ValueError, match="refresh_at"):
        service.users(Redis(), refresh_at=share)


@pytest.mark.parametrize(
    ("refresh_at", "wait_at"),
    [(0.5, 0.4), (0.5, 1.1), (0.5, 0), (0.5, float("inf")), (0.5, float("nan"))],
)
def test_a_wait_that_begins_before_the_refresh_or_after_the_end_is_refused(
    service: Service, refresh_at: float, wait_at: float
) -> None:
    with pytest.raises(ValueError, match="wait_at"):
        service.users(Redis(), refresh_at=refresh_at, wait_at=wait_at)


@pytest.mark.parametrize("lease", [0, -1, TTL + 1, float("inf"), float("nan")])
def test_a_lease_that_is_none_is_refused(service: Service, lease: float) -> None:
    with pytest.raises(ValueError, match="lease"):
        service.users(Redis(), lease=lease)


async def test_naive_readers_refresh_once_each(
    redis: Redis, key: str, proof: Proof
) -> None:
    naive = EagerRefresh(redis, ttl=300)
    gate, runs = asyncio.Event(), 0

    async def load() -> object:
        nonlocal runs
        runs += 1
        if runs > 1:
            await gate.wait()
        return "Ada"

    await naive.get(key, load)
    await redis.expire(key, 60)  # 80 % have passed
    for _ in range(20):
        await naive.get(key, load)
    await asyncio.sleep(0)  # the last one begins

    assert runs == 1 + 20
    gate.set()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(tasks) == 20
    await asyncio.gather(*tasks)
    proof.breaks("20 readers come in the last fifth of the TTL", "20 refreshes run")


async def test_a_naive_refresh_restores_what_was_invalidated(
    redis: Redis, key: str, proof: Proof
) -> None:
    naive = EagerRefresh(redis, ttl=300)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def load() -> object:
        begun.set()
        await may_end.wait()
        return "old"

    await redis.set(key, '"old"', ex=60)
    await naive.get(key, load)
    await begun.wait()
    await redis.delete(key)  # the user has been changed
    may_end.set()
    (refresh,) = asyncio.all_tasks() - {asyncio.current_task()}
    await refresh

    assert await naive.get(key, load) == "old"
    proof.breaks(
        "A user is changed and invalidated while a refresh loads",
        "the old user is stored, and served for another TTL",
    )


def test_a_naive_refresh_is_lost_at_shutdown(proof: Proof) -> None:
    load = Load.held(ADA)

    async def serve() -> None:
        async with FakeAsyncRedis() as redis:
            await redis.set("user:7", '"old"', ex=60)
            await EagerRefresh(redis, ttl=300).get("user:7", load)
            await load.begun.wait()

    asyncio.run(serve())

    assert load.cancelled == 1
    proof.breaks(
        "The service shuts down while a refresh runs",
        "nobody waits for the refresh, and it is cancelled after Redis was closed",
    )
