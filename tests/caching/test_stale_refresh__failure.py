"""A refresh that fails, comes too late or is overtaken leaves a right answer behind."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import RedisError

from catalogue.plugin import Proof
from tests.support.counters import count_round_trips
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    RedisServer,
    fake_redis,
)
from tests.support.stale_refresh import (
    ADA,
    ADA_MARRIED,
    DUE,
    EMAIL,
    LEASE,
    TTL,
    Load,
    Service,
    User,
    Users,
)

DOWN = TimeoutError(EMAIL)
REFRESH_FAILED = {("users", "refresh"): 1}


@pytest.fixture
def service() -> Service:
    """A service that has just begun."""
    return Service()


@pytest.fixture
def users(redis: Redis, service: Service) -> Users:
    """Users in this test's Redis."""
    return service.users(redis)


@pytest.fixture
def elsewhere(redis_server: RedisServer, service: Service) -> Users:
    """The same users in another process."""
    return service.users(redis_server.client())


@pytest.fixture
async def due(users: Users, redis_server: RedisServer, service: Service) -> str:
    """The key of a user who is kept, and whose refresh is due."""
    key = f"{redis_server.namespace}:user:7"
    await users.get(key, Load.of(ADA))
    service.now += DUE
    return key


async def test_a_failed_refresh_keeps_the_old_value_and_is_told_once(
    users: Users, due: str, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    load = Load.of(DOWN)

    async with users:
        assert await users.get(due, load) == ADA

    assert await users.get(due, load) == ADA
    assert load.runs == 1
    assert service.told == REFRESH_FAILED
    (record,) = caplog.records
    assert record.getMessage() == "refresh of users: TimeoutError"
    assert EMAIL not in caplog.text
    assert due not in caplog.text


async def test_the_old_value_ends_with_its_own_ttl_and_then_the_error_is_raised(
    users: Users, redis: Redis, due: str
) -> None:
    await redis.pexpire(due, 60_000)

    async with users:
        await users.get(due, Load.of(DOWN))

    assert 0 < await redis.pttl(due) <= 60_000
    await redis.delete(due)  # as the end of its life does
    with pytest.raises(TimeoutError):
        await users.get(due, Load.of(DOWN))


async def test_after_a_failure_one_reader_tries_again_when_the_lease_is_over(
    users: Users, elsewhere: Users, due: str, service: Service
) -> None:
    load = Load.of(DOWN, DOWN, ADA_MARRIED)

    for elapsed, runs in ((0, 1), (LEASE - 0.001, 1), (0.001, 2), (LEASE, 3)):
        service.now += elapsed
        async with users, elsewhere:
            for each in (users, elsewhere) * 10:
                await each.get(due, load)
        assert load.runs == runs

    assert await elsewhere.get(due, load) == ADA_MARRIED


async def test_a_refresh_that_takes_longer_than_its_lease_is_cancelled(
    redis: Redis, due: str, service: Service
) -> None:
    users = service.users(redis, limit=service.limit)
    load = Load.held(ADA_MARRIED)

    async with asyncio.timeout(60), users:
        await users.get(due, load)
        await load.begun.wait()
        service.end_leases()

    assert load.cancelled == 1
    assert service.told == REFRESH_FAILED
    assert await users.get(due, load) == ADA


async def test_when_a_process_stops_in_the_midst_another_takes_over_after_the_lease(
    users: Users, elsewhere: Users, due: str, service: Service
) -> None:
    stopped, load = Load.held(ADA), Load.of(ADA_MARRIED)
    async with users:
        await users.get(due, stopped)
        await stopped.begun.wait()

        service.now += LEASE - 0.001
        async with elsewhere:
            await elsewhere.get(due, load)
        assert load.runs == 0
        service.now += 0.001
        async with elsewhere:
            await elsewhere.get(due, load)
        assert load.runs == 1

        stopped.gate.set()  # it was only slow, and comes too late

    assert await users.get(due, load) == ADA_MARRIED
    assert service.told == {}


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_refresh_that_began_before_an_invalidation_does_not_restore_the_value(
    users: Users, elsewhere: Users, due: str, where: str
) -> None:
    old, new = Load.held(ADA), Load.of(ADA_MARRIED)
    async with users:
        await users.get(due, old)
        await old.begun.wait()

        await (users if where == "here" else elsewhere).invalidate(due)
        old.gate.set()

    assert await users.get(due, new) == ADA_MARRIED
    assert await elsewhere.get(due, new) == ADA_MARRIED
    assert new.runs == 1


async def test_nor_after_the_new_value_has_been_stored(
    users: Users, elsewhere: Users, due: str
) -> None:
    old, new = Load.held(ADA), Load.of(ADA_MARRIED)
    async with users:
        await users.get(due, old)
        await old.begun.wait()

        await elsewhere.invalidate(due)
        assert await users.get(due, new) == ADA_MARRIED
        old.gate.set()

    assert await users.get(due, new) == ADA_MARRIED
    assert new.runs == 1


async def test_nor_when_the_same_value_has_been_stored_again_for_the_same_time(
    redis: Redis, redis_server: RedisServer, due: str, service: Service
) -> None:
    users = service.users(redis, lease=20)
    elsewhere = service.users(redis_server.client(), refresh_at=(DUE + 20) / TTL)
    late = Load.held(ADA_MARRIED)
    async with users:
        await users.get(due, late)
        await late.begun.wait()

        await elsewhere.invalidate(due)  # she is called as she was before
        service.now -= DUE  # and the clock is put back
        await elsewhere.get(due, Load.of(ADA))
        late.gate.set()

    assert await users.get(due, Load.of(DOWN)) == ADA


async def test_nor_when_the_entry_has_ended_meanwhile(
    users: Users, redis: Redis, due: str
) -> None:
    old = Load.held(ADA)
    async with users:
        await users.get(due, old)
        await old.begun.wait()

        await users.invalidate(due)
        await redis.delete(due)  # as the end of the mark does
        old.gate.set()

    assert await redis.get(due) is None


async def test_a_refresh_that_is_overtaken_before_its_claim_does_not_load(
    elsewhere: Users,
    redis: Redis,
    due: str,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = service.users(redis)
    old, claim = Load.of(ADA), redis.eval

    async def claim_too_late(script: str, count: int, *arguments: str) -> object:
        await elsewhere.invalidate(due)
        assert await elsewhere.get(due, Load.of(ADA_MARRIED)) == ADA_MARRIED
        return await claim(script, count, *arguments)

    monkeypatch.setattr(redis, "eval", claim_too_late)
    async with users:
        assert await users.get(due, old) == ADA

    assert old.runs == 0
    assert await users.get(due, old) == ADA_MARRIED
    assert service.told == {}


async def test_what_cannot_be_stored_is_told_and_the_old_value_kept(
    users: Users, due: str, service: Service
) -> None:
    class Admin(User):
        """Not the declared type."""

    async with users:
        await users.get(due, Load.of(Admin(name=EMAIL)))

    assert await users.get(due, Load.of(DOWN)) == ADA
    assert service.told == REFRESH_FAILED


async def test_from_the_second_share_on_a_reader_waits_for_the_new_value(
    redis: Redis, due: str, service: Service
) -> None:
    service.now -= DUE
    users = service.users(redis, refresh_at=0.1, wait_at=0.5)
    await users.invalidate(due)
    await users.get(due, Load.of(ADA))
    load = Load.held(ADA_MARRIED)

    async with users:
        service.now += TTL * 0.5 - 0.001
        assert await users.get(due, load) == ADA
        await load.begun.wait()
        service.now += 0.001
        readers = [asyncio.create_task(users.get(due, load)) for _ in range(20)]
        await asyncio.sleep(0)
        readers[0].cancel()
        load.gate.set()
        found = await asyncio.gather(*readers[1:])

    assert found == [ADA_MARRIED] * 19
    assert len({id(user) for user in found}) == 19
    assert load.runs == 1
    assert load.cancelled == 0


async def test_and_is_given_the_old_value_only_if_the_refresh_fails(
    redis: Redis, due: str, service: Service, proof: Proof
) -> None:
    users = service.users(redis, refresh_at=0.1, wait_at=0.5)
    await users.invalidate(due)
    await users.get(due, Load.of(ADA))
    load = Load.of(DOWN, ADA_MARRIED)

    async with users:
        service.now += TTL * 0.5
        assert await users.get(due, load) == ADA
        assert await users.get(due, load) == ADA  # until the lease is over
        assert load.runs == 1
        service.now += LEASE
        with count_round_trips() as trips:
            assert await users.get(due, load) == ADA_MARRIED

    assert trips.commands == ["GET", "EVAL", "EVAL"]
    assert service.told == REFRESH_FAILED
    proof.cost("hit that waits for its refresh", round_trips=3, loads=1)


async def test_while_another_process_refreshes_the_old_value_is_given(
    redis: Redis, redis_server: RedisServer, due: str, service: Service
) -> None:
    here, there = (
        service.users(client, refresh_at=0.1, wait_at=0.1)
        for client in (redis, redis_server.client())
    )
    await here.invalidate(due)
    await here.get(due, Load.of(ADA))
    service.now += TTL * 0.1
    load = Load.held(ADA_MARRIED)

    async with here:
        reader = asyncio.create_task(here.get(due, load))
        await load.begun.wait()
        assert await there.get(due, load) == ADA
        load.gate.set()
        assert await reader == ADA_MARRIED


async def test_when_redis_goes_down_during_a_refresh_it_is_told_once(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service
) -> None:
    users = service.users(breakable.client())
    await users.get("user:7", Load.of(ADA))
    service.now += DUE
    load = Load.held(ADA_MARRIED)

    async with users:
        assert await users.get("user:7", load) == ADA
        await load.begun.wait()
        with breakable.down():
            load.gate.set()
            async with users:
                pass

    assert service.told == REFRESH_FAILED
    assert load.runs == 1


async def test_while_redis_is_down_the_value_is_loaded(
    breakable: FakeRedisServer | PrivateRedisServer, service: Service
) -> None:
    users = service.users(breakable.client())
    await users.get("user:7", Load.of(ADA))
    service.now += DUE
    load = Load.held(ADA_MARRIED)

    async with users:
        with breakable.down():
            readers = [
                asyncio.create_task(users.get("user:7", load)) for _ in range(200)
            ]
            await load.begun.wait()
            load.gate.set()
            assert await asyncio.gather(*readers) == [ADA_MARRIED] * 200
            with pytest.raises(RedisError):
                await users.invalidate("user:7")

        assert load.runs == 1
        assert service.told == {("users", "read"): 1}
        await users.get("user:7", load)
    found = await users.get("user:7", Load.of(DOWN))
    assert found == ADA_MARRIED


@settings(deadline=None)
@given(nonsense=st.binary() | st.from_regex(rb'\[\["[0-9:]*[a-f0-9:]*",null\]\]'))
def test_nonsense_in_redis_is_loaded_anew(nonsense: bytes) -> None:
    service = Service()

    async def read() -> User | None:
        async with fake_redis() as server:
            redis = server.client()
            await redis.set("user:7", b"=" + nonsense)
            async with service.users(redis) as users:
                return await users.get("user:7", Load.of(ADA))

    assert asyncio.run(read()) == ADA
    assert service.told == {("users", "decode"): 1}
