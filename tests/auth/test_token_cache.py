"""The service is asked seldom, and a revoked, foreign or expired token never passes."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from catalogue.plugin import Proof
from snippets.auth import token_cache, token_cache_naive
from snippets.auth.token_auth import (
    AuthUnavailableError,
    AuthUser,
    InvalidTokenError,
    PermissionDeniedError,
)
from snippets.auth.token_cache import TokenCache
from snippets.caching.redis_client import create_redis
from tests.support.auth_clients import ServiceWorld
from tests.support.auth_service import ACME, GLOBEX
from tests.support.counters import count_round_trips
from tests.support.redis_faults import GARBAGE, faulty_server
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    RedisServer,
    fake_redis,
    private_redis_server,
)

HIDDEN = "b0a1c2d3-secret-of-ada"
PATIENCE = 60
"""Seconds after which something hangs."""


FIVE_SECONDS = token_cache.REFUSAL_LIFE
LONG = 3600
"""Seconds for which a refusal is kept here: Redis lets real ones pass, `Clock` none."""


@pytest.fixture(autouse=True)
def _keep_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "REFUSAL_LIFE", timedelta(seconds=LONG))


@pytest.fixture
def world() -> ServiceWorld:
    """An auth service that knows nobody."""
    return ServiceWorld()


@pytest.fixture
def cache(world: ServiceWorld, redis: Redis, redis_server: RedisServer) -> TokenCache:
    """A cache of it in this test's Redis."""
    return cache_of(world, redis, redis_server)


def cache_of(world: ServiceWorld, redis: Redis, server: RedisServer) -> TokenCache:
    """Return a cache, as each process has one."""
    return TokenCache(
        client=world.client,
        redis=lambda: redis,
        namespace=server.namespace,
        clock=world.clock,
    )


async def keys_in(redis: Redis, server: RedisServer) -> list[bytes]:
    """Return all keys of this test."""
    return sorted([key async for key in redis.scan_iter(f"{server.namespace}*")])


async def is_invalid(cache: TokenCache, token: str) -> bool:
    """Return whether a token is refused."""
    try:
        await cache.get_user(token)
    except InvalidTokenError:
        return True
    return False


async def test_a_hit_asks_redis_once_and_nobody_else(
    cache: TokenCache, world: ServiceWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN, "ada", ["users.#"])

    with count_round_trips() as miss:
        first = await cache.get_user(HIDDEN)
    with count_round_trips() as hit:
        second = await cache.get_user(HIDDEN)

    assert first == second == await world.client.get_user(HIDDEN)
    assert second.token.get_secret_value() == HIDDEN
    assert (miss.total, hit.total, world.calls) == (2, 1, 2)
    proof.cost("miss", round_trips=2, auth_calls=1)
    proof.cost("hit", round_trips=1, auth_calls=0)


async def test_40_tokens_with_one_beginning_are_40_users(
    cache: TokenCache, world: ServiceWorld
) -> None:
    tokens = [f"{'a' * 30}{number:02}" for number in range(40)]
    for number, token in enumerate(tokens):
        world.log_in(token, f"user-{number}")

    for _ in ("miss", "hit"):
        users = [await cache.get_user(token) for token in tokens]
        assert [user.auth_id for user in users] == [f"user-{n}" for n in range(40)]
    assert world.calls == 40
    for wrong in ("a" * 30, "a" * 31, f"{tokens[0]}0", tokens[0].upper()):
        assert await is_invalid(cache, wrong)


async def test_no_key_and_no_value_has_a_token(
    cache: TokenCache,
    world: ServiceWorld,
    redis: Redis,
    redis_server: RedisServer,
) -> None:
    world.log_in(HIDDEN, tenants=[ACME, GLOBEX])
    await cache.get_user(HIDDEN)
    await cache.check(HIDDEN, tenant=UUID(GLOBEX))
    await cache.revoke(HIDDEN)
    await cache.get_user(HIDDEN)
    unknown = "unknown-token-of-somebody"
    assert await is_invalid(cache, unknown)

    keys = await keys_in(redis, redis_server)
    stored = repr([(key, await redis.get(key)) for key in keys])
    assert len(keys) == 4
    for token in (HIDDEN, unknown):
        assert token[:8] not in stored
        assert sha256(token.encode()).hexdigest() in stored
    assert HIDDEN not in repr(cache)


async def test_all_keys_of_a_token_are_in_one_slot_of_a_cluster(
    cache: TokenCache,
    world: ServiceWorld,
    redis: Redis,
    redis_server: RedisServer,
) -> None:
    world.log_in(HIDDEN, tenants=[ACME, GLOBEX])
    await cache.check(HIDDEN, tenant=UUID(GLOBEX))
    await cache.revoke(HIDDEN)

    keys = await keys_in(redis, redis_server)
    assert len(keys) == 3
    assert len({key_slot(key) for key in keys}) == 1


@pytest.mark.parametrize(("life", "expected"), [(3600, 60), (65, 60), (20, 15)])
async def test_an_entry_ends_with_its_time_or_before_the_token_does(
    cache: TokenCache,
    world: ServiceWorld,
    redis_server: RedisServer,
    life: float,
    expected: int,
) -> None:
    redis = redis_server.client()
    world.log_in(HIDDEN, life=life)
    await cache.get_user(HIDDEN)

    (key,) = await keys_in(redis, redis_server)
    assert expected - 10 < await redis.pttl(key) / 1000 <= expected


@pytest.mark.parametrize("life", [5, 1, 0.1])
async def test_a_token_that_is_about_to_end_is_not_kept(
    cache: TokenCache,
    world: ServiceWorld,
    redis: Redis,
    redis_server: RedisServer,
    life: float,
) -> None:
    world.log_in(HIDDEN, life=life)
    assert (await cache.get_user(HIDDEN)).auth_id == "ada"
    assert await keys_in(redis, redis_server) == []


async def test_an_entry_that_redis_keeps_too_long_is_not_served(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN, life=20)
    await cache.get_user(HIDDEN)
    world.clock.move(14.999)
    await cache.get_user(HIDDEN)
    assert world.calls == 1
    world.clock.move(0.001)
    await cache.get_user(HIDDEN)
    assert world.calls == 2
    world.clock.move(5)

    assert await is_invalid(cache, HIDDEN)


async def test_a_revoked_token_is_refused_at_once_in_every_process(
    cache: TokenCache,
    world: ServiceWorld,
    redis_server: RedisServer,
    proof: Proof,
) -> None:
    other_process = cache_of(world, redis_server.client(), redis_server)
    world.log_in(HIDDEN)
    for process in (cache, other_process):
        await process.get_user(HIDDEN)

    world.revoke(HIDDEN)
    with count_round_trips() as trips:
        await cache.revoke(HIDDEN)

    assert await is_invalid(other_process, HIDDEN)
    assert await is_invalid(cache, HIDDEN)
    assert trips.total == 1
    proof.cost("revocation, whatever is known of the token", round_trips=1)


async def test_a_revocation_reaches_all_tenants_and_no_other_token(
    cache: TokenCache, world: ServiceWorld
) -> None:
    tenants = [str(UUID(int=number)) for number in range(5)]
    for token in (HIDDEN, "other"):
        world.log_in(token, tenants=tenants)
        for tenant in tenants:
            await cache.check(token, tenant=UUID(tenant))
    world.revoke(HIDDEN)
    await cache.revoke(HIDDEN)
    calls = world.calls

    for tenant in tenants:
        with pytest.raises(InvalidTokenError):
            await cache.check(HIDDEN, tenant=UUID(tenant))
    assert world.calls == calls + 1
    for tenant in tenants:
        await cache.check("other", tenant=UUID(tenant))
    assert world.calls == calls + 1


async def test_a_tenant_that_is_taken_from_a_token_is_forgotten_by_a_revocation(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN, tenants=[ACME, GLOBEX])
    await cache.check(HIDDEN, tenant=UUID(GLOBEX))
    world.log_in(HIDDEN, tenants=[ACME])
    await cache.revoke(HIDDEN)

    with pytest.raises(PermissionDeniedError):
        await cache.check(HIDDEN, tenant=UUID(GLOBEX))


async def test_redis_is_told_to_keep_a_refusal_for_five_seconds(
    cache: TokenCache,
    redis: Redis,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_cache, "REFUSAL_LIFE", FIVE_SECONDS)
    lives: list[timedelta] = []
    set_key: Any = type(redis).set

    async def record(self: Redis, *what: object, **how: timedelta) -> object:
        lives.append(how["px"])
        return await set_key(self, *what, **how)

    monkeypatch.setattr(type(redis), "set", record)
    assert await is_invalid(cache, HIDDEN)
    assert lives == [timedelta(seconds=5)]
    for key in await keys_in(redis, redis_server):
        assert await redis.pttl(key) <= 5000


async def test_a_refusal_is_kept_for_its_time_and_forgotten_by_a_revocation(
    cache: TokenCache, world: ServiceWorld
) -> None:
    for _ in range(3):
        assert await is_invalid(cache, HIDDEN)
    assert world.calls == 1

    world.log_in(HIDDEN)
    await cache.revoke(HIDDEN)
    assert not await is_invalid(cache, HIDDEN)

    assert await is_invalid(cache, "other")
    world.log_in("other", life=2 * LONG)
    world.clock.move(LONG - 0.001)
    assert await is_invalid(cache, "other")
    world.clock.move(0.001)
    assert not await is_invalid(cache, "other")


async def test_however_much_rubbish_is_sent_so_many_refusals_are_kept(
    cache: TokenCache,
    world: ServiceWorld,
    redis: Redis,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_cache, "MOST_REFUSALS", 3)
    for number in range(10):
        assert await is_invalid(cache, f"rubbish-{number}")
    assert len(await keys_in(redis, redis_server)) == 3

    assert await is_invalid(cache, "rubbish-0")
    assert world.calls == 10
    assert await is_invalid(cache, "rubbish-9")
    assert world.calls == 11
    world.clock.move(LONG)
    assert await is_invalid(cache, "rubbish-9")
    assert await is_invalid(cache, "rubbish-9")
    assert world.calls == 12


async def test_an_outage_of_the_service_is_not_kept(
    cache: TokenCache, world: ServiceWorld, redis: Redis, redis_server: RedisServer
) -> None:
    world.log_in(HIDDEN, tenants=[ACME, GLOBEX])
    world.go_down()
    for _ in range(2):
        with pytest.raises(AuthUnavailableError):
            await cache.get_user(HIDDEN)
    assert await keys_in(redis, redis_server) == []

    world.service.status = None
    assert (await cache.get_user(HIDDEN)).auth_id == "ada"
    world.go_down()
    assert (await cache.get_user(HIDDEN)).auth_id == "ada"  # it is known
    with pytest.raises(AuthUnavailableError):
        await cache.check(HIDDEN, tenant=UUID(GLOBEX))
    world.service.status = None
    await cache.check(HIDDEN, tenant=UUID(GLOBEX))


async def test_each_request_has_its_own_decision(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN, "ada", ["users.me.read", "calls.#", "!calls.7.#"])

    await cache.check(HIDDEN, scope="users.ada.read")
    await cache.check(HIDDEN, scope="calls.8.read")
    for scope in ("users.grace.read", "calls.7.read", ""):
        with pytest.raises(PermissionDeniedError):
            await cache.check(HIDDEN, scope=scope)
    await cache.check(HIDDEN)
    assert world.calls == 1
    assert [method for method, _, _ in world.service.requests] == ["GET"]


async def test_a_tenant_is_asked_about_once_and_the_tokens_own_never(
    cache: TokenCache, world: ServiceWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN, acl=["a"], tenants=[ACME, GLOBEX])
    await cache.check(HIDDEN, scope="a", tenant=UUID(ACME))
    assert world.calls == 1

    await cache.check(HIDDEN, scope="a", tenant=UUID(GLOBEX))
    with count_round_trips() as trips:
        await cache.check(HIDDEN, scope="a", tenant=UUID(GLOBEX))
    assert (trips.total, world.calls) == (2, 2)
    proof.cost("check of another tenant that is known", round_trips=2, auth_calls=0)

    foreign = UUID(int=1)
    for _ in range(2):
        with pytest.raises(PermissionDeniedError):
            await cache.check(HIDDEN, tenant=foreign)
    with pytest.raises(PermissionDeniedError):
        await cache.check(HIDDEN, scope="b", tenant=UUID(GLOBEX))
    assert world.calls == 3


async def test_two_tokens_do_not_share_what_is_known_of_a_tenant(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN, tenants=[ACME, GLOBEX])
    world.log_in("other", "grace", tenants=[ACME])
    await cache.check(HIDDEN, tenant=UUID(GLOBEX))

    with pytest.raises(PermissionDeniedError):
        await cache.check("other", tenant=UUID(GLOBEX))
    await cache.check(HIDDEN, tenant=UUID(GLOBEX))


async def started(world: ServiceWorld, cache: TokenCache) -> list[asyncio.Task[str]]:
    """Let 50 callers ask for one token, and return when the service is asked."""
    world.service.may_answer = asyncio.Event()

    async def ask() -> str:
        return (await cache.get_user(HIDDEN)).auth_id

    callers = [asyncio.create_task(ask()) for _ in range(50)]
    await world.service.asked.wait()
    return callers


async def test_50_who_ask_at_once_ask_the_service_once(
    cache: TokenCache, world: ServiceWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN)
    callers = await started(world, cache)
    assert world.service.may_answer
    world.service.may_answer.set()

    assert await asyncio.gather(*callers) == ["ada"] * 50
    assert world.calls == 1
    proof.cost("50 first uses at once", auth_calls=1)


async def test_50_who_ask_for_a_bad_token_at_once_ask_the_service_once(
    cache: TokenCache, world: ServiceWorld
) -> None:
    callers = await started(world, cache)
    assert world.service.may_answer
    world.service.may_answer.set()

    results = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(result) for result in results} == {InvalidTokenError}
    assert world.calls == 1


async def test_a_leader_who_goes_away_does_not_fail_the_rest(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN)
    callers = await started(world, cache)
    callers[0].cancel()
    await asyncio.wait([callers[0]])
    assert world.service.may_answer
    world.service.may_answer.set()

    results = await asyncio.gather(*callers, return_exceptions=True)
    assert results.count("ada") == 49
    assert callers[0].cancelled()
    assert world.calls == 2


async def test_a_service_that_is_down_is_asked_twice_by_50_at_once(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.go_down()
    callers = await started(world, cache)
    assert world.service.may_answer
    world.service.may_answer.set()

    results = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(result) for result in results} == {AuthUnavailableError}
    assert world.calls == 2


async def test_50_hits_at_once_ask_redis_once_each(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN)
    await cache.get_user(HIDDEN)
    with count_round_trips() as trips:
        await asyncio.gather(*(cache.get_user(HIDDEN) for _ in range(50)))
    assert trips.total == 50
    assert world.calls == 1


@pytest.mark.parametrize("revoked_elsewhere", [False, True])
async def test_who_asked_before_a_revocation_neither_restores_nor_passes_on_the_answer(
    cache: TokenCache,
    world: ServiceWorld,
    redis_server: RedisServer,
    *,
    revoked_elsewhere: bool,
) -> None:
    other_process = cache_of(world, redis_server.client(), redis_server)
    world.log_in(HIDDEN)
    world.service.may_answer = asyncio.Event()
    early = asyncio.create_task(cache.get_user(HIDDEN))
    await world.service.asked.wait()

    # The service has said yes; while that is on its way, the token is revoked.
    world.revoke(HIDDEN)
    await (other_process if revoked_elsewhere else cache).revoke(HIDDEN)
    late = asyncio.create_task(cache.get_user(HIDDEN))
    await asyncio.sleep(0)  # so that it waits with the early one
    world.service.may_answer.set()

    assert (await early).auth_id == "ada"
    with pytest.raises(InvalidTokenError):
        await late
    assert await is_invalid(cache, HIDDEN)
    assert await is_invalid(other_process, HIDDEN)
    assert world.calls == 2


async def test_50_who_wait_while_a_token_is_revoked_ask_the_service_once_more(
    cache: TokenCache, world: ServiceWorld, proof: Proof
) -> None:
    world.log_in(HIDDEN)
    callers = await started(world, cache)
    world.revoke(HIDDEN)
    await cache.revoke(HIDDEN)
    assert world.service.may_answer
    world.service.may_answer.set()

    results = await asyncio.gather(*callers, return_exceptions=True)
    assert results[0] == "ada"  # who asked before the revocation
    assert {type(result) for result in results[1:]} == {InvalidTokenError}
    assert world.calls == 2
    proof.cost("50 at once while the token is revoked", auth_calls=2)


async def test_each_who_waits_while_redis_goes_down_asks_the_service(
    breakable: FakeRedisServer | PrivateRedisServer, world: ServiceWorld
) -> None:
    cache = cache_of(world, breakable.client(), breakable)
    world.log_in(HIDDEN)
    callers = await started(world, cache)
    with breakable.down():
        assert world.service.may_answer
        world.service.may_answer.set()
        assert await asyncio.gather(*callers) == ["ada"] * 50
    assert world.calls == 50


@pytest.mark.parametrize(
    "end", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)
async def test_a_token_that_ends_where_the_calendar_does_is_not_an_error(
    world: ServiceWorld,
    redis: Redis,
    redis_server: RedisServer,
    end: datetime,
) -> None:
    written = end.replace(tzinfo=None).isoformat()
    world.log_in(HIDDEN)
    world.service.tokens[HIDDEN]["utc_expires_at"] = written
    data = {"data": world.service.tokens[HIDDEN]}
    world.service.body = json.dumps(data).encode()
    world.service.status = 200  # an end that is long over is no matter to it
    cache = cache_of(world, redis, redis_server)
    assert (await cache.get_user(HIDDEN)).expires_at == end
    assert bool(await keys_in(redis, redis_server)) is (end.year > 1)


async def test_an_answer_from_before_a_revocation_is_not_served_after_it(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN)

    asked = world.client

    class Slow:
        """Answers with what was true before the revocation."""

        async def get_user(self, token: str) -> AuthUser:
            """Return the user, whose token is revoked before the answer arrives."""
            user = await asked.get_user(token)
            world.revoke(token)
            await cache.revoke(token)
            return user

        async def check(
            self, token: str, *, scope: str | None = None, tenant: UUID | None = None
        ) -> None:
            """Never be asked."""
            raise NotImplementedError(token, scope, tenant)

    racing = TokenCache(
        client=Slow(),
        redis=cache.redis,
        namespace=cache.namespace,
        clock=world.clock,
    )
    assert (await racing.get_user(HIDDEN)).auth_id == "ada"  # who asked before
    assert await is_invalid(cache, HIDDEN)


async def test_an_answer_that_took_longer_than_entries_live_is_not_kept(
    cache: TokenCache, world: ServiceWorld, redis: Redis, redis_server: RedisServer
) -> None:
    world.log_in(HIDDEN)
    world.service.may_answer = asyncio.Event()
    caller = asyncio.create_task(cache.get_user(HIDDEN))
    await world.service.asked.wait()
    world.clock.move(60)  # so that a mark of that time might be gone
    world.service.may_answer.set()

    assert (await caller).auth_id == "ada"
    assert await keys_in(redis, redis_server) == []


async def test_the_mark_of_a_revocation_outlives_all_that_could_be_older(
    cache: TokenCache, redis: Redis, redis_server: RedisServer
) -> None:
    await cache.revoke(HIDDEN)
    (key,) = await keys_in(redis, redis_server)
    assert 110 < await redis.pttl(key) / 1000 <= 120


@pytest.fixture
async def breakable(
    redis_backend: str,
) -> AsyncIterator[FakeRedisServer | PrivateRedisServer]:
    """A Redis that may be taken down."""
    start = fake_redis if redis_backend == "fakeredis" else private_redis_server
    async with start() as server:
        yield server


async def test_while_redis_is_down_each_call_asks_the_service(
    breakable: FakeRedisServer | PrivateRedisServer,
    world: ServiceWorld,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = cache_of(world, breakable.client(), breakable)
    world.log_in(HIDDEN, tenants=[ACME, GLOBEX])
    await cache.get_user(HIDDEN)

    with breakable.down(), count_round_trips() as trips:
        assert (await cache.get_user(HIDDEN)).auth_id == "ada"
        assert (await cache.get_user(HIDDEN)).token.get_secret_value() == HIDDEN
        await cache.check(HIDDEN, tenant=UUID(GLOBEX))
        assert await is_invalid(cache, "unknown")
        with pytest.raises(RedisError):
            await cache.revoke(HIDDEN)
        world.go_down()
        with pytest.raises(AuthUnavailableError):
            await cache.get_user(HIDDEN)
        world.service.status = None

    assert world.calls == 7
    assert trips.total <= 7
    messages = {
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("snippets")
    }
    assert messages == {"token cache: ConnectionError"}
    assert HIDDEN not in caplog.text
    await cache.get_user(HIDDEN)
    await cache.get_user(HIDDEN)
    assert world.calls <= 8


WRONG = GARBAGE | {
    "numbers": b"*2\r\n:1\r\n:2\r\n",
    "too much": b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "nothing at all": b"*0\r\n",
}


@pytest.mark.parametrize("reply", WRONG.values(), ids=WRONG)
async def test_whatever_a_wrong_redis_says_each_call_asks_the_service(
    world: ServiceWorld, reply: bytes
) -> None:
    world.log_in(HIDDEN)
    async with (
        faulty_server(reply) as server,
        create_redis(server.url, timeout=PATIENCE) as redis,
        asyncio.timeout(PATIENCE),
    ):
        cache = TokenCache(
            client=world.client,
            redis=lambda: redis,
            namespace="telephony",
            clock=world.clock,
        )
        callers = await asyncio.gather(*(cache.get_user(HIDDEN) for _ in range(3)))
        assert [one.auth_id for one in callers] == ["ada"] * 3
        assert await is_invalid(cache, "unknown")


async def test_when_redis_goes_down_meanwhile_the_answer_is_given(
    breakable: FakeRedisServer | PrivateRedisServer, world: ServiceWorld
) -> None:
    cache = cache_of(world, breakable.client(), breakable)
    world.log_in(HIDDEN)
    world.service.may_answer = asyncio.Event()
    caller = asyncio.create_task(cache.get_user(HIDDEN))
    await world.service.asked.wait()

    with breakable.down():
        world.service.may_answer.set()
        assert (await caller).auth_id == "ada"


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"|",
        b"|{}",
        b"nonsense",
        b"\xff\xfe",
        b'|{"answer":true}',
        b'|{"answer":{"auth_id":"root"},"until":"2099-01-01T00:00:00Z"}',
        b'|{"answer":null,"until":"2099-01-01T00:00:00Z"}',
        b'|{"answer":true,"until":"2099-01-01T00:00:00"}',
        b'old-mark|{"answer":true,"until":"2099-01-01T00:00:00Z"}',
        b'|{"answer":true,"until":"2099-01-01T00:00:00Z"}',
        b'|{"answer":"no","until":"2099-01-01T00:00:00Z"}',
        b'|{"answer":0,"until":"2099-01-01T00:00:00Z"}',
    ],
)
async def test_an_entry_that_makes_no_sense_is_a_miss_and_replaced(
    cache: TokenCache,
    world: ServiceWorld,
    redis: Redis,
    redis_server: RedisServer,
    entry: bytes,
) -> None:
    world.log_in(HIDDEN)
    await cache.get_user(HIDDEN)
    (key,) = await keys_in(redis, redis_server)
    await redis.set(key, entry)

    assert (await cache.get_user(HIDDEN)).auth_id == "ada"
    assert world.calls == 2
    await cache.get_user(HIDDEN)
    assert world.calls == 2


@pytest.mark.parametrize("entry", ["user", "yes", 1, "refused"])
async def test_an_entry_of_a_tenant_that_is_of_another_kind_is_a_miss(
    cache: TokenCache,
    world: ServiceWorld,
    redis: Redis,
    redis_server: RedisServer,
    entry: str | int,
) -> None:
    world.log_in(HIDDEN)
    await cache.get_user(HIDDEN)
    (key,) = await keys_in(redis, redis_server)
    user: Any = await redis.get(key)
    of_tenant = key.replace(b":user", f":{GLOBEX}".encode())
    answer = json.dumps(False if entry == "refused" else entry)
    other = f'|{{"answer":{answer},"until":"2099-01-01T00:00:00Z"}}'.encode()
    await redis.set(of_tenant, user if entry == "user" else other)

    with pytest.raises(PermissionDeniedError):
        await cache.check(HIDDEN, tenant=UUID(GLOBEX))
    assert world.calls == (1 if entry == "refused" else 2)


async def test_nothing_is_remembered_but_in_redis(
    cache: TokenCache, world: ServiceWorld, redis: Redis, redis_server: RedisServer
) -> None:
    for number in range(50):
        world.log_in(f"token-{number}", "forgotten")
        await cache.get_user(f"token-{number}")
    for key in await keys_in(redis, redis_server):
        await redis.delete(key)
    calls = world.calls

    await cache.get_user("token-7")

    assert world.calls == calls + 1
    gc.collect()
    users = [one for one in gc.get_objects() if type(one) is AuthUser]
    assert "forgotten" not in {user.auth_id for user in users}


async def test_what_one_caller_does_to_a_user_no_other_sees(
    cache: TokenCache, world: ServiceWorld
) -> None:
    world.log_in(HIDDEN)
    callers = await asyncio.gather(*(cache.get_user(HIDDEN) for _ in range(3)))
    callers[0].metadata["uuid"] = "somebody else"

    assert callers[1].metadata["uuid"] == callers[2].metadata["uuid"] == "ada"
    assert (await cache.get_user(HIDDEN)).metadata["uuid"] == "ada"


async def test_users_of_two_tenants_at_once_never_get_each_others_answers(
    cache: TokenCache, world: ServiceWorld
) -> None:
    expected = {}
    for number in range(20):
        tenant = (ACME, GLOBEX)[number % 2]
        world.log_in(f"token-{number}", f"user-{number}", tenants=[tenant])
        expected[f"token-{number}"] = f"user-{number}", UUID(tenant)

    async def ask(token: str) -> tuple[str, UUID | None, str]:
        user = await cache.get_user(token)
        return user.auth_id, user.tenant_uuid, user.token.get_secret_value()

    for _ in ("miss", "hit"):
        answers = await asyncio.gather(*map(ask, expected))
        assert answers == [(*known, token) for token, known in expected.items()]


async def test_a_value_that_a_client_decodes_is_an_error_and_no_hit(
    world: ServiceWorld, redis_server: RedisServer
) -> None:
    decoding = redis_server.client(decode_responses=True)
    cache = cache_of(world, decoding, redis_server)
    world.log_in(HIDDEN)
    await cache.get_user(HIDDEN)
    with pytest.raises(TypeError):
        await cache.get_user(HIDDEN)


async def test_a_shorter_life_can_be_chosen(
    world: ServiceWorld, redis: Redis, redis_server: RedisServer
) -> None:
    cache = TokenCache(
        client=world.client,
        redis=lambda: redis,
        namespace=redis_server.namespace,
        ttl=timedelta(seconds=10),
        skew=timedelta(0),
        clock=world.clock,
    )
    world.log_in(HIDDEN)
    await cache.get_user(HIDDEN)
    world.clock.move(10)
    await cache.get_user(HIDDEN)
    assert world.calls == 2


@pytest.fixture
async def naive(
    world: ServiceWorld, redis: Redis
) -> AsyncIterator[token_cache_naive.TokenCache]:
    """The naive cache, whose keys have no namespace of this test."""
    yield token_cache_naive.TokenCache(world.client, redis)
    async for key in redis.scan_iter("auth:token:*"):
        await redis.delete(key)


async def test_the_naive_cache_takes_bobs_token_for_alices(
    naive: token_cache_naive.TokenCache, world: ServiceWorld, proof: Proof
) -> None:
    world.log_in("tenant-acme-2026-alice", "alice", ["#"])
    world.log_in("tenant-acme-2026-bob", "bob")
    await naive.get_user("tenant-acme-2026-alice")

    assert (await naive.get_user("tenant-acme-2026-bob")).auth_id == "alice"
    proof.breaks("Two tokens begin alike", "Bob is Alice, with her grants")
    assert (await naive.get_user("tenant-acme-2026")).auth_id == "alice"
    proof.breaks("A token is cut off", "it works all the same")


async def test_the_naive_cache_serves_revoked_tokens_and_stores_them_in_clear(
    naive: token_cache_naive.TokenCache,
    world: ServiceWorld,
    redis: Redis,
    proof: Proof,
) -> None:
    world.log_in(HIDDEN)
    await naive.get_user(HIDDEN)
    world.revoke(HIDDEN)

    assert (await naive.get_user(HIDDEN)).auth_id == "ada"
    proof.breaks("A token is revoked", "it is served until its entry ends")
    assert HIDDEN in repr(await redis.get(f"auth:token:{HIDDEN[:16]}"))
    proof.breaks("Somebody reads the cache", "every token is there in clear")
