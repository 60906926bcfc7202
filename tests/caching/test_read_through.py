"""A cache in front of a load never makes an answer worse, whatever becomes of Redis."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from signal import SIGCONT, SIGSTOP

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from catalogue.plugin import Proof
from snippets.caching.cache_manager import CacheManager
from snippets.caching.codec import Codec
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.read_through import ReadThrough
from snippets.caching.read_through_naive import FallBack
from snippets.caching.redis_client import create_redis
from tests.support.counters import count_round_trips
from tests.support.redis_faults import GARBAGE, faulty_server
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    RedisServer,
    fake_redis,
    hasty,
)

PATIENCE = 60
"""Seconds after which something hangs."""

EMAIL = "ada@example.com"


class User(BaseModel):
    """Somebody with a telephone."""

    name: str
    extensions: list[str] = []


@dataclass
class Load:
    """A load that counts, and waits if it is told to."""

    results: list[User | Exception | None]
    gate: asyncio.Event | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    runs: int = 0

    async def __call__(self) -> User | None:
        """Return or raise the next result, the last one for ever."""
        result = self.results[min(self.runs, len(self.results) - 1)]
        self.runs += 1
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(result, Exception):
            raise result
        return result


ADA = User(name=EMAIL, extensions=["1001"])


@dataclass
class Told:
    """What the log and the metric were told."""

    log: pytest.LogCaptureFixture
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)

    def assert_once(self, step: str) -> None:
        """Require one log record and one count, and no key or value in them."""
        records = [one for one in self.log.records if one.name.startswith("snippets")]
        assert [record.levelno for record in records] == [logging.WARNING]
        assert records[0].getMessage().startswith(f"cache {step} of users: ")
        assert self.counted == {("users", step): 1}
        assert EMAIL not in self.log.text
        assert "user:7" not in self.log.text

    def assert_nothing(self) -> None:
        """Require silence."""
        assert not self.log.records
        assert not self.counted


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """Everything that is told during this test."""
    return Told(caplog)


MakeUsers = Callable[..., ReadThrough[User | None]]


@pytest.fixture
def make_users(told: Told) -> MakeUsers:
    """Build users on a client."""

    def make(
        redis: Redis, *, lease: float | None = None, cache_none: bool = True
    ) -> ReadThrough[User | None]:
        return ReadThrough(
            name="users",
            codec=Codec[User | None](User | None),
            entries=GuardedEntries(client=lambda: redis, ttl=300, lease=lease),
            on_failure=lambda name, step: told.counted.update([(name, step)]),
            cache_none=cache_none,
        )

    return make


@pytest.fixture
def users(redis: Redis, make_users: MakeUsers) -> ReadThrough[User | None]:
    """Users in this test's Redis."""
    return make_users(redis)


async def test_a_hit_equals_the_miss_and_loads_nothing(
    users: ReadThrough[User | None], key: str, proof: Proof
) -> None:
    load = Load([ADA])

    with count_round_trips() as miss:
        first = await users.get(key, load)
    with count_round_trips() as hit:
        second = await users.get(key, load)

    assert first == second == ADA
    assert type(second) is User
    assert load.runs == 1
    assert (miss.total, hit.total) == (2, 1)
    proof.cost("miss", round_trips=2, loads=1)
    proof.cost("hit", round_trips=1, loads=0)


async def test_none_is_kept_too(users: ReadThrough[User | None], key: str) -> None:
    load = Load([None])

    assert await users.get(key, load) is None
    assert await users.get(key, load) is None
    assert load.runs == 1


async def test_none_is_not_kept_if_so_chosen(
    make_users: MakeUsers, redis: Redis, key: str
) -> None:
    users = make_users(redis, cache_none=False, lease=60)
    load = Load([None, None, ADA])

    assert await users.get(key, load) is None
    assert await users.get(key, load) is None
    assert await users.get(key, load) == ADA
    assert await users.get(key, load) == ADA
    assert load.runs == 3


async def test_200_callers_load_once_and_are_given_objects_of_their_own(
    users: ReadThrough[User | None], key: str, proof: Proof
) -> None:
    load = Load([ADA], gate=asyncio.Event())
    assert load.gate is not None
    callers = [asyncio.create_task(users.get(key, load)) for _ in range(100)]
    await load.begun.wait()

    with count_round_trips() as trips:
        callers += [asyncio.create_task(users.get(key, load)) for _ in range(100)]
        await asyncio.sleep(0)  # they ask while it loads
        load.gate.set()
        results = await asyncio.gather(*callers)

    assert load.runs == 1
    assert trips.total == 1  # the store
    assert results == [ADA] * 200
    assert len({id(user) for user in results}) == 200
    proof.cost("200 misses at once", loads=1)


async def test_hits_at_the_same_moment_take_two_round_trips_in_all(
    users: ReadThrough[User | None], key: str
) -> None:
    load = Load([ADA])
    await users.get(key, load)

    with count_round_trips() as trips:
        results = await asyncio.gather(*(users.get(key, load) for _ in range(32)))

    assert trips.total == 2  # the first one's, and one that began after all asked
    assert len({id(user) for user in results}) == 32
    assert load.runs == 1


async def test_an_error_is_raised_and_not_kept(
    users: ReadThrough[User | None], key: str, told: Told
) -> None:
    load = Load([TimeoutError("the database"), ADA])

    with pytest.raises(TimeoutError, match="the database"):
        await users.get(key, load)

    assert await users.get(key, load) == ADA
    told.assert_nothing()


async def test_after_an_invalidation_the_value_is_loaded_anew(
    users: ReadThrough[User | None], key: str
) -> None:
    load = Load([ADA, None])
    await users.get(key, load)

    await users.invalidate(key)

    assert await users.get(key, load) is None


@pytest.mark.parametrize("lease", [None, 60])
async def test_who_asks_after_an_invalidation_is_not_given_what_was_loading(
    make_users: MakeUsers, redis: Redis, key: str, lease: float | None
) -> None:
    users = make_users(redis, lease=lease)
    old, new = Load([ADA], gate=asyncio.Event()), Load([None])
    assert old.gate is not None
    before = asyncio.create_task(users.get(key, old))
    await old.begun.wait()

    await users.invalidate(key)
    after = await users.get(key, new)
    old.gate.set()

    assert after is None
    assert await before == ADA
    assert await users.get(key, new) is None  # the old one was not stored
    assert new.runs == 1


@pytest.mark.parametrize("lease", [None, 60])
async def test_a_reader_in_another_process_cannot_restore_the_old_value_either(
    make_users: MakeUsers, redis_server: RedisServer, key: str, lease: float | None
) -> None:
    here, there = (make_users(redis_server.client(), lease=lease) for _ in range(2))
    old, new = Load([ADA], gate=asyncio.Event()), Load([None])
    assert old.gate is not None
    slow = asyncio.create_task(there.get(key, old))
    await old.begun.wait()

    await here.invalidate(key)
    old.gate.set()
    await slow

    assert await here.get(key, new) is None
    assert await there.get(key, new) is None
    assert new.runs == 1


@pytest.mark.parametrize("lease", [None, 60])
async def test_who_asks_after_an_invalidation_elsewhere_is_not_given_the_old_value(
    make_users: MakeUsers, redis_server: RedisServer, key: str, lease: float | None
) -> None:
    here, there = (make_users(redis_server.client(), lease=lease) for _ in range(2))
    load = Load([ADA, None], gate=asyncio.Event())
    assert load.gate is not None
    before = asyncio.create_task(there.get(key, load))
    await load.begun.wait()

    await here.invalidate(key)
    after = [asyncio.create_task(there.get(key, load)) for _ in range(50)]
    await asyncio.sleep(0)  # they wait for the load that began before
    load.gate.set()

    assert await before == ADA
    assert await asyncio.gather(*after) == [None] * 50
    assert load.runs == 2


@pytest.mark.parametrize("lease", [None, 60])
async def test_a_none_that_is_not_kept_is_not_given_to_who_asks_after_a_change(
    make_users: MakeUsers, redis_server: RedisServer, key: str, lease: float | None
) -> None:
    here, there = (
        make_users(redis_server.client(), lease=lease, cache_none=False)
        for _ in range(2)
    )
    load = Load([None, ADA], gate=asyncio.Event())
    assert load.gate is not None
    before = asyncio.create_task(there.get(key, load))
    await load.begun.wait()

    await here.invalidate(key)
    after = asyncio.create_task(there.get(key, load))
    await asyncio.sleep(0)
    load.gate.set()

    assert await before is None
    assert await after == ADA


@pytest.mark.parametrize("command", ["get", "eval"])
async def test_who_asks_after_a_change_is_not_given_an_answer_that_was_on_its_way(
    make_users: MakeUsers,
    redis_server: RedisServer,
    key: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis = redis_server.client()
    here, there = make_users(redis_server.client()), make_users(redis)
    load = Load([ADA, None])
    if command == "get":
        await here.get(key, load)
    answered, may_arrive = asyncio.Event(), asyncio.Event()
    send: Callable[..., Awaitable[object]] = getattr(redis, command)

    async def late(*arguments: object) -> object:
        answer = await send(*arguments)
        answered.set()
        await may_arrive.wait()
        return answer

    monkeypatch.setattr(redis, command, late)
    before = asyncio.create_task(there.get(key, load))
    await answered.wait()
    await here.invalidate(key)
    after = [asyncio.create_task(there.get(key, load)) for _ in range(50)]
    await asyncio.sleep(0)  # they wait for that answer
    may_arrive.set()

    assert await before == ADA
    assert await asyncio.gather(*after) == [None] * 50
    assert load.runs == 2


async def test_who_asks_after_a_change_is_not_given_what_an_outage_left_unproved(
    make_users: MakeUsers, key: str
) -> None:
    async with fake_redis() as server:
        here, there = (make_users(server.client()) for _ in range(2))
        load = Load([ADA, None], gate=asyncio.Event())
        assert load.gate is not None
        with server.down():
            before = asyncio.create_task(there.get(key, load))
            await load.begun.wait()

        await here.invalidate(key)
        after = asyncio.create_task(there.get(key, load))
        await asyncio.sleep(0)
        load.gate.set()

        assert await before == ADA
        assert await after is None


async def test_nor_what_could_not_be_stored(make_users: MakeUsers, key: str) -> None:
    async with fake_redis() as server:
        here, there = (make_users(server.client()) for _ in range(2))
        old, new = Load([ADA], gate=asyncio.Event()), Load([None])
        assert old.gate is not None
        before = asyncio.create_task(there.get(key, old))
        await old.begun.wait()

        await here.invalidate(key)
        after = asyncio.create_task(there.get(key, new))
        await asyncio.sleep(0)
        with server.down():
            old.gate.set()
            assert await before == ADA
            assert await after is None


async def test_nor_what_replaces_nonsense_by_its_tags(
    redis_server: RedisServer, tagged: str
) -> None:
    redis = redis_server.client()
    manager = CacheManager(lambda: redis, tagged)
    codec = Codec[User | None](User | None)
    entries = manager.entries(ttl=300, tags=lambda *_: ["users"])
    users = ReadThrough(name="users", codec=codec, entries=entries)
    load = Load([ADA, None], gate=asyncio.Event())
    assert load.gate is not None
    await manager.set_with_tags(await manager.get("user:7"), b"nonsense", ttl=300)
    before = asyncio.create_task(users.get("user:7", load))
    await load.begun.wait()

    await manager.invalidate_by_tags("users")
    after = asyncio.create_task(users.get("user:7", load))
    await asyncio.sleep(0)
    load.gate.set()

    assert await before == ADA
    assert await after is None


async def test_who_waited_for_two_loads_that_were_overtaken_waits_for_no_third(
    make_users: MakeUsers, redis_server: RedisServer, key: str
) -> None:
    here, there = (make_users(redis_server.client()) for _ in range(2))
    load = Load([ADA, None, ADA], gate=asyncio.Event())

    async def overtaken() -> User | None:
        user = await load()
        await here.invalidate(key)
        return user

    assert load.gate is not None
    before = [asyncio.create_task(there.get(key, overtaken)) for _ in range(20)]
    await load.begun.wait()
    during = [asyncio.create_task(there.get(key, overtaken)) for _ in range(20)]
    await asyncio.sleep(0)
    load.gate.set()

    assert await asyncio.gather(*before) == [ADA] * 20  # it began after they asked
    assert await asyncio.gather(*during) == [None] * 20
    assert load.runs == 2


async def test_a_metric_that_raises_fails_no_call(
    breakable: FakeRedisServer | PrivateRedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    def raise_error(*_: str) -> None:
        raise RuntimeError("no metrics")

    redis = breakable.client()
    entries = GuardedEntries(client=lambda: redis, ttl=300)
    users = ReadThrough(
        name="users", codec=Codec(User), entries=entries, on_failure=raise_error
    )

    async def load() -> User:
        return ADA

    with breakable.down():
        assert await users.get("user:7", load) == ADA
    assert "no metrics" in caplog.text


async def test_tags_that_cannot_be_told_fail_no_call(
    redis: Redis, tagged: str, told: Told
) -> None:
    def tags(_: str, payload: bytes) -> list[str]:
        raise KeyError(payload)

    users = ReadThrough(
        name="users",
        codec=Codec[User | None](User | None),
        entries=CacheManager(lambda: redis, tagged).entries(ttl=300, tags=tags),
        on_failure=lambda name, step: told.counted.update([(name, step)]),
    )

    assert await users.get("user:7", Load([ADA])) == ADA
    told.assert_once("write")


async def test_a_load_that_ends_badly_gives_its_lease_back(
    make_users: MakeUsers, redis_server: RedisServer, key: str
) -> None:
    here, there = (make_users(redis_server.client(), lease=3600) for _ in range(2))
    failing, stuck = Load([ValueError("no")]), Load([ADA], gate=asyncio.Event())

    with pytest.raises(ValueError, match="no"):
        await here.get(key, failing)
    caller = asyncio.create_task(here.get(key, stuck))
    await stuck.begun.wait()
    caller.cancel()
    with suppress(asyncio.CancelledError):
        await caller

    async with asyncio.timeout(60):  # far below the lease
        assert await there.get(key, Load([ADA])) == ADA


async def test_when_the_leading_caller_is_cancelled_another_one_loads(
    users: ReadThrough[User | None], key: str
) -> None:
    load = Load([ADA], gate=asyncio.Event())
    assert load.gate is not None
    callers = [asyncio.create_task(users.get(key, load)) for _ in range(200)]
    await load.begun.wait()

    callers[0].cancel()
    load.gate.set()
    results = await asyncio.gather(*callers[1:])

    assert results == [ADA] * 199
    assert load.runs == 2


async def test_while_redis_is_down_the_value_is_loaded(
    breakable: FakeRedisServer | PrivateRedisServer,
    make_users: MakeUsers,
    told: Told,
) -> None:
    users = make_users(breakable.client())
    load = Load([ADA])
    await users.get("user:7", load)

    with breakable.down():
        assert await users.get("user:7", load) == ADA

    assert load.runs == 2
    told.assert_once("read")


async def test_while_redis_is_down_200_callers_still_load_once(
    breakable: FakeRedisServer | PrivateRedisServer,
    make_users: MakeUsers,
    told: Told,
) -> None:
    users = make_users(breakable.client())
    load = Load([ADA], gate=asyncio.Event())
    assert load.gate is not None

    with breakable.down():
        callers = [asyncio.create_task(users.get("user:7", load)) for _ in range(200)]
        await load.begun.wait()
        load.gate.set()
        assert await asyncio.gather(*callers) == [ADA] * 200

    assert load.runs == 1
    told.assert_once("read")


async def test_when_redis_goes_down_during_the_load_the_value_is_returned(
    breakable: FakeRedisServer | PrivateRedisServer,
    make_users: MakeUsers,
    told: Told,
) -> None:
    users = make_users(breakable.client())
    load = Load([ADA], gate=asyncio.Event())
    assert load.gate is not None
    caller = asyncio.create_task(users.get("user:7", load))
    await load.begun.wait()

    with breakable.down():
        load.gate.set()
        assert await caller == ADA

    assert load.runs == 1
    told.assert_once("write")


async def test_when_redis_is_back_values_are_kept_again(
    breakable: FakeRedisServer | PrivateRedisServer, make_users: MakeUsers
) -> None:
    users = make_users(breakable.client())
    load = Load([ADA])
    await users.get("user:7", load)
    with breakable.down():
        await users.get("user:7", load)

    await users.get("user:7", load)
    runs = load.runs
    await users.get("user:7", load)

    assert load.runs == runs


async def test_an_invalidation_that_fails_says_so(
    breakable: FakeRedisServer | PrivateRedisServer, make_users: MakeUsers
) -> None:
    users = make_users(breakable.client())

    with breakable.down(), pytest.raises(RedisError):
        await users.invalidate("user:7")


async def test_a_server_that_never_answers_delays_a_call_by_one_time_limit(
    make_users: MakeUsers, told: Told
) -> None:
    async with faulty_server() as silent:
        async with create_redis(silent.url, timeout=0.1) as redis:
            users = make_users(redis)
            async with asyncio.timeout(60):  # without a limit this would be for ever
                assert await users.get("user:7", Load([ADA])) == ADA

        assert silent.connections == 1  # one wait, and no second attempt
    told.assert_once("read")


async def test_of_two_callers_one_waits_for_an_answer_and_one_for_the_connection(
    make_users: MakeUsers, told: Told
) -> None:
    async with faulty_server() as silent:
        async with create_redis(silent.url, pool_size=1, timeout=0.1) as redis:
            users = make_users(redis)
            calls = (users.get(key, Load([ADA])) for key in ("user:7", "user:8"))
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.gather(*calls) == [ADA] * 2

        # The second may be given the connection of the first, and wait once more.
        assert silent.connections <= 2
    assert told.counted == {("users", "read"): 2}


@pytest.mark.parametrize(
    "reply",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$seven\r\n", b"-ERR no\r\n", b"\r\n"],
)
async def test_a_server_that_is_no_redis_fails_no_call(
    make_users: MakeUsers,
    told: Told,
    reply: bytes,
) -> None:
    async with faulty_server(reply) as server, create_redis(server.url) as redis:
        assert await make_users(redis).get("user:7", Load([ADA])) == ADA

    told.assert_once("read")


@pytest.mark.backends("redis")
async def test_a_server_that_stands_still_fails_no_call(
    redis_backend: str,
    private_redis: PrivateRedisServer,
    make_users: MakeUsers,
    told: Told,
) -> None:
    assert redis_backend == "redis"
    load = Load([ADA])
    async with create_redis(private_redis.url, pool_size=1, timeout=PATIENCE) as redis:
        users = make_users(redis)
        await users.get("user:7", load)
        assert private_redis.process is not None

        async with hasty(redis):
            private_redis.process.send_signal(SIGSTOP)
            try:
                async with asyncio.timeout(PATIENCE):
                    assert await users.get("user:7", load) == ADA
            finally:
                private_redis.process.send_signal(SIGCONT)

        assert await users.get("user:7", load) == ADA

    assert load.runs == 2  # before and during
    told.assert_once("read")


@pytest.mark.parametrize("lease", [None, 0.01])
@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE)
async def test_no_garbage_that_a_server_says_fails_a_call(
    make_users: MakeUsers, reply: bytes, lease: float | None
) -> None:
    async with (
        faulty_server(reply) as server,
        create_redis(server.url, timeout=PATIENCE) as redis,
        asyncio.timeout(PATIENCE),
    ):
        users = make_users(redis, lease=lease)
        assert await users.get("user:7", Load([ADA])) == ADA


@pytest.mark.parametrize("nonsense", [b"=", b"=null]", b"=[1]", b"=\xff", b'=["1001"]'])
async def test_nonsense_in_redis_is_loaded_anew_and_replaced(
    users: ReadThrough[User | None],
    redis: Redis,
    key: str,
    told: Told,
    nonsense: bytes,
) -> None:
    load = Load([ADA])
    await redis.set(key, nonsense)

    assert await users.get(key, load) == ADA
    assert await users.get(key, load) == ADA
    assert load.runs == 1
    told.assert_once("decode")


async def test_a_key_of_another_kind_fails_no_call(
    users: ReadThrough[User | None],
    redis: Redis,
    key: str,
    told: Told,
) -> None:
    await redis.lpush(key, EMAIL)

    assert await users.get(key, Load([ADA])) == ADA
    told.assert_once("read")


async def test_what_cannot_be_stored_is_returned_and_told(
    users: ReadThrough[User | None],
    key: str,
    told: Told,
) -> None:
    class Admin(User):
        """Not the declared type."""

    load = Load([Admin(name=EMAIL)])

    assert type(await users.get(key, load)) is Admin
    told.assert_once("encode")
    await users.get(key, load)
    assert load.runs == 2


async def test_what_cannot_be_stored_is_not_shared_with_those_who_wait(
    users: ReadThrough[User | None], key: str
) -> None:
    class Admin(User):
        """Not the declared type."""

    gate = asyncio.Event()
    runs = 0

    async def load() -> User | None:
        nonlocal runs
        runs += 1
        await gate.wait()
        return Admin(name="Ada")

    callers = [asyncio.create_task(users.get(key, load)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*callers)

    assert len({id(user) for user in results}) == 3
    assert runs == 3


async def test_an_error_of_redis_that_quotes_the_value_is_not_logged(
    make_users: MakeUsers, told: Told
) -> None:
    quoting = f"-ERR unknown command, with args beginning with: 'user:7' '{EMAIL}'\r\n"
    async with (
        faulty_server(quoting.encode()) as server,
        create_redis(server.url, timeout=60) as redis,
    ):
        with pytest.raises(ResponseError, match=EMAIL):
            await redis.ping()
        assert await make_users(redis).get("user:7", Load([ADA])) == ADA

    told.assert_once("read")


async def test_the_naive_version_loads_twice_when_it_cannot_store(
    breakable: FakeRedisServer | PrivateRedisServer, proof: Proof
) -> None:
    naive = FallBack(breakable.client(), ttl=300)
    runs = 0
    gate, begun = asyncio.Event(), asyncio.Event()

    async def load() -> object:
        nonlocal runs
        runs += 1
        begun.set()
        await gate.wait()
        return runs

    caller = asyncio.create_task(naive.get("user:7", load))
    await begun.wait()
    with breakable.down():
        gate.set()
        await caller

    assert runs == 2
    proof.breaks("Redis goes down during a load", "the value is loaded a second time")


async def test_the_naive_version_fails_on_nonsense_and_says_nothing_of_an_outage(
    breakable: FakeRedisServer | PrivateRedisServer,
    caplog: pytest.LogCaptureFixture,
    proof: Proof,
) -> None:
    redis = breakable.client()
    naive = FallBack(redis, ttl=300)

    async def load() -> object:
        return "Ada"

    await redis.set("user:7", "nonsense")
    with pytest.raises(ValueError, match="Expecting value"):
        await naive.get("user:7", load)
    proof.breaks("The stored bytes are not JSON", "every call raises JSONDecodeError")
    with breakable.down():
        assert await naive.get("user:7", load) == "Ada"
    assert not caplog.records
    proof.breaks("Redis is down", "no log record or metric tells of it")
