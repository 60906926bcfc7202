"""A cached function answers as the function does, and runs as seldom as it can."""

import asyncio
import inspect
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalogue.plugin import Proof
from snippets.caching import cached_naive
from snippets.caching.cache_key import CacheKeyError
from snippets.caching.cached import Cache, cached
from snippets.caching.codec import Codec
from snippets.caching.redis_client import namespaced
from tests.support.counters import count_round_trips
from tests.support.redis_servers import (
    RedisServer,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

tenant: ContextVar[str | None] = ContextVar("tenant")


class User(BaseModel):
    """Somebody with a telephone."""

    id: int
    name: str
    extensions: tuple[str, ...] = ()


class Base(DeclarativeBase):
    """Tables."""


class UserRow(Base):
    """An ORM class."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


def ada(user_id: int) -> User:
    """Return a user with this id."""
    return User(id=user_id, name="Ada", extensions=("1001", "1002"))


@pytest.fixture
def cache(redis: Redis, redis_server: RedisServer) -> Cache:
    """A cache in this test's Redis."""
    return Cache(client=lambda: redis, namespace=redis_server.namespace)


async def test_a_hit_has_the_value_and_type_of_the_miss_and_runs_nothing(
    cache: Cache, proof: Proof
) -> None:
    calls = Counter[int]()

    @cached(cache, ttl=300, vary=None)
    async def get_user(user_id: int) -> User:
        calls[user_id] += 1
        return ada(user_id)

    with count_round_trips() as miss:
        first = await get_user(7)
    with count_round_trips() as hit:
        second = await get_user(7)

    assert first == second == ada(7)
    assert type(second) is User
    assert calls == {7: 1}
    assert (miss.total, hit.total) == (2, 1)
    proof.cost("miss", round_trips=2, executions=1)
    proof.cost("hit", round_trips=1, executions=0)


async def test_a_miss_with_a_lease_costs_one_round_trip_more(
    cache: Cache, proof: Proof
) -> None:
    @cached(cache, ttl=300, vary=None, lease=60)
    async def get_user(user_id: int) -> User:
        return ada(user_id)

    with count_round_trips() as miss:
        await get_user(7)
    with count_round_trips() as hit:
        await get_user(7)

    assert (miss.total, hit.total) == (3, 1)
    proof.cost("miss with a lease", round_trips=3, executions=1)


async def test_a_cached_function_is_typed_as_the_function(cache: Cache) -> None:
    @cached(cache, ttl=300, vary=None)
    async def get_user(user_id: int, *, active: bool = True) -> User | None:
        """Find a user."""
        return ada(user_id) if active and user_id > 7 else None

    function: Callable[[int], Awaitable[User | None]] = get_user

    assert_type(await get_user(7, active=False), User | None)
    assert await function(7) is None
    assert get_user.__doc__ == "Find a user."
    assert list(inspect.signature(get_user).parameters) == ["user_id", "active"]


def test_a_function_that_is_not_async_is_refused(cache: Cache) -> None:
    def get_user(user_id: int) -> User:
        raise NotImplementedError(user_id)

    decorate: Callable[[Any], object] = cached(cache, ttl=300, vary=None)
    with pytest.raises(TypeError, match="get_user is not an async function"):
        decorate(get_user)


def test_a_function_that_returns_orm_objects_is_refused(cache: Cache) -> None:
    async def get_row(user_id: int) -> UserRow | None:
        raise NotImplementedError(user_id)

    async def get_rows() -> list[UserRow]:
        raise NotImplementedError

    with pytest.raises(TypeError, match="return a DTO"):
        cached(cache, ttl=300, vary=None)(get_row)
    with pytest.raises(TypeError, match="return a DTO"):
        cached(cache, ttl=300, vary=None)(get_rows)


def test_a_function_without_a_return_annotation_is_refused(cache: Cache) -> None:
    async def get_user() -> None:
        raise NotImplementedError

    get_user.__annotations__.clear()
    with pytest.raises(TypeError, match="annotate what it returns"):
        cached(cache, ttl=300, vary=None)(get_user)


@pytest.mark.parametrize("ttl", [0, -1, 0.0001])
def test_a_time_to_live_that_is_none_is_refused(cache: Cache, ttl: float) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        cached(cache, ttl=ttl, vary=None)


@pytest.mark.parametrize("result", [None, 0, 0.0, "", False, [], {}])
async def test_none_and_what_is_false_are_kept(cache: Cache, result: object) -> None:
    calls = 0

    @cached(cache, ttl=300, vary=None)
    async def look_up(number: str) -> object:
        nonlocal calls
        calls += 1
        return result if number == "1001" else None

    kept = [await look_up("1001") for _ in range(3)]

    assert kept == [result] * 3
    assert {type(one) for one in kept} == {type(result)}
    assert calls == 1


async def test_none_is_not_kept_if_so_chosen(cache: Cache) -> None:
    results = [None, "Ada"]

    @cached(cache, ttl=300, vary=None, cache_none=False)
    async def look_up(number: str) -> str | None:
        return results.pop(0) if number == "1001" else None

    assert [await look_up("1001") for _ in range(3)] == [None, "Ada", "Ada"]


async def test_an_exception_is_raised_each_time_and_not_kept(cache: Cache) -> None:
    calls = 0

    @cached(cache, ttl=300, vary=None)
    async def get_user(user_id: int) -> User:
        nonlocal calls
        calls += 1
        raise LookupError(user_id)

    for _ in range(2):
        with pytest.raises(LookupError, match="7"):
            await get_user(7)
    assert calls == 2


async def test_calls_that_only_look_alike_are_kept_apart(cache: Cache) -> None:
    @cached(cache, ttl=300, vary=None)
    async def echo(*args: object, **kwargs: object) -> str:
        return repr((args, kwargs))

    calls: list[tuple[tuple[object, ...], dict[str, object]]] = [
        ((1,), {}),
        (("1",), {}),
        ((True,), {}),
        ((1.0,), {}),
        (("a:b",), {}),
        (("a", "b"), {}),
        (("x=1",), {}),
        ((), {"x": 1}),
        (([],), {}),
        (((),), {}),
    ]
    for _ in ("miss", "hit"):
        for args, kwargs in calls:
            assert await echo(*args, **kwargs) == repr((args, kwargs))


async def test_the_same_call_written_otherwise_is_a_hit(cache: Cache) -> None:
    calls = 0

    @cached(cache, ttl=300, vary=None)
    async def search(text: str, page: int = 1, size: int = 20) -> list[str]:
        nonlocal calls
        calls += 1
        return [text] * page * size

    await search("ada")
    await search("ada", 1)
    await search(text="ada", size=20)
    await search(size=20, page=1, text="ada")

    assert calls == 1


async def test_an_argument_that_cannot_be_in_a_key_is_an_error_at_the_call(
    cache: Cache,
) -> None:
    @cached(cache, ttl=300, vary=None)
    async def find(filters: object) -> str:
        return str(filters)

    with pytest.raises(CacheKeyError):
        await find(object())


async def test_a_session_can_be_excluded_by_name(cache: Cache) -> None:
    sessions = []

    @cached(cache, ttl=300, vary=None, exclude={"session"})
    async def get_user(session: object, user_id: int) -> User:
        sessions.append(session)
        return ada(user_id)

    first, second = object(), object()
    await get_user(first, 7)
    await get_user(second, user_id=7)

    assert sessions == [first]


async def test_a_key_function_is_given_defaults_that_the_call_relies_on(
    cache: Cache,
) -> None:
    calls = 0

    @cached(
        cache, ttl=300, vary=None, key=lambda call: (call["text"].lower(), call["page"])
    )
    async def search(text: str, page: int = 1) -> str:
        nonlocal calls
        calls += 1
        return f"{text} {page}"

    assert await search("Ada") == await search("ADA", page=1) == "Ada 1"
    assert await search("Ada", 2) == "Ada 2"
    assert calls == 2


async def test_a_method_excludes_self_or_says_what_of_it_matters(cache: Cache) -> None:
    class Users:
        """The users of a region."""

        def __init__(self, region: str) -> None:
            """Count the calls."""
            self.region = region
            self.calls = 0

        @cached(cache, ttl=300, vary=None, exclude={"self"})
        async def name(self, user_id: int) -> str:
            """Say who it is, which is the same in all regions."""
            self.calls += 1
            return f"Ada {user_id}"

        @cached(
            cache,
            ttl=300,
            vary=None,
            key=lambda call: (call["self"].region, call["user_id"]),
        )
        async def number(self, user_id: int) -> str:
            """Say where to call."""
            self.calls += 1
            return f"{self.region}-{user_id}"

    north, south = Users("north"), Users("south")

    assert await north.name(7) == await south.name(7) == "Ada 7"
    assert (north.calls, south.calls) == (1, 0)
    assert [await north.number(7), await south.number(7)] == ["north-7", "south-7"]
    assert [await north.number(7), await south.number(7)] == ["north-7", "south-7"]
    assert (north.calls, south.calls) == (2, 1)

    await north.number.invalidate(7)
    assert await north.number(7) == "north-7"
    assert await south.number(7) == "south-7"
    assert (north.calls, south.calls) == (3, 1)
    assert north.number.key(7) == Users.number.key(north, 7) != south.number.key(7)
    assert await south.number.uncached(7) == "south-7"
    assert_type(await north.number(7), str)


async def test_callers_of_one_method_on_one_object_share_an_execution(
    cache: Cache,
) -> None:
    class Users:
        """Users that take their time."""

        calls = 0

        @cached(cache, ttl=300, vary=None, exclude={"self"})
        async def name(self, user_id: int) -> str:
            """Say who it is, after a while."""
            Users.calls += 1
            await asyncio.sleep(0)
            return f"Ada {user_id}"

    users = Users()

    assert await asyncio.gather(*(users.name(7) for _ in range(50))) == ["Ada 7"] * 50
    assert Users.calls == 1


def test_a_method_that_says_nothing_of_self_is_refused(cache: Cache) -> None:
    async def name(self: object, user_id: int) -> str:
        raise NotImplementedError(self, user_id)

    with pytest.raises(TypeError, match="exclude 'self', or give key="):
        cached(cache, ttl=300, vary=None)(name)


def test_a_class_method_is_refused(cache: Cache) -> None:
    async def name(cls: object, user_id: int) -> str:
        raise NotImplementedError(cls, user_id)

    with pytest.raises(TypeError, match="class method"):
        cached(cache, ttl=300, vary=None, exclude={"cls"})(name)


def test_a_function_that_does_not_say_what_it_varies_by_is_refused(
    cache: Cache,
) -> None:
    async def name(user_id: int) -> str:
        raise NotImplementedError(user_id)

    decorate: Callable[..., Callable[..., object]] = cached
    with pytest.raises(TypeError, match="give vary=, or vary=None"):
        decorate(cache, ttl=300)(name)


async def test_two_tenants_are_given_their_own_values(cache: Cache) -> None:
    @cached(cache, ttl=300, vary=tenant.get)
    async def get_user(user_id: int) -> str:
        return f"{user_id} of {tenant.get()}"

    answers = []
    for name in ("acme", "globex", "acme", "globex"):
        tenant.set(name)
        answers.append(await get_user(7))

    assert answers == ["7 of acme", "7 of globex"] * 2


async def test_a_call_without_a_tenant_is_an_error(cache: Cache) -> None:
    @cached(cache, ttl=300, vary=lambda: tenant.get(None))
    async def get_user(user_id: int) -> str:
        raise NotImplementedError(user_id)

    tenant.set(None)
    for use in (get_user, get_user.invalidate):
        with pytest.raises(CacheKeyError, match="varies by what is None"):
            await use(7)


async def test_key_invalidate_and_uncached_speak_of_the_same_call(
    cache: Cache, redis: Redis, proof: Proof
) -> None:
    calls = 0

    @cached(cache, ttl=300, vary=None)
    async def get_user(user_id: int, region: str = "north") -> str:
        nonlocal calls
        calls += 1
        return f"{user_id} in {region}"

    await get_user(7)
    assert get_user.key(user_id=7) == get_user.key(7, "north")
    assert await redis.exists(get_user.key(7)) == 1

    with count_round_trips() as trips:
        await get_user.invalidate(user_id=7, region="north")
    assert trips.total == 1
    proof.cost("invalidate", round_trips=1)
    await get_user(7)
    assert calls == 2
    await get_user(7)
    assert calls == 2

    with count_round_trips() as trips:
        await get_user.uncached(7)
    assert (trips.total, calls) == (0, 3)


async def test_invalidating_one_call_leaves_the_others(cache: Cache) -> None:
    calls = Counter[int]()

    @cached(cache, ttl=300, vary=None)
    async def get_user(user_id: int) -> str:
        calls[user_id] += 1
        return "Ada"

    for user_id in (1, 10):
        await get_user(user_id)
    await get_user.invalidate(1)
    for user_id in (1, 10):
        await get_user(user_id)

    assert calls == {1: 2, 10: 1}


async def test_a_caller_that_began_before_an_invalidation_cannot_restore_the_old_value(
    cache: Cache,
) -> None:
    stored = "old"
    has_read, may_return = asyncio.Event(), asyncio.Event()

    @cached(cache, ttl=300, vary=None)
    async def get_name(user_id: int) -> str:
        name = f"{stored} {user_id}"
        has_read.set()
        await may_return.wait()
        return name

    slow = asyncio.create_task(get_name(7))
    await has_read.wait()
    stored = "new"
    await get_name.invalidate(7)
    later = asyncio.create_task(get_name(7))
    may_return.set()

    assert await slow == "old 7"
    assert await later == "new 7"
    assert await get_name(7) == "new 7"


async def test_entries_live_between_nine_tenths_of_the_ttl_and_the_ttl(
    cache: Cache, redis: Redis
) -> None:
    @cached(cache, ttl=3600, vary=None)
    async def get_user(user_id: int) -> User:
        return ada(user_id)

    lives = []
    for user_id in range(50):
        await get_user(user_id)
        lives.append(await redis.pttl(get_user.key(user_id)))

    assert min(lives) > 3_240_000 - 60_000
    assert max(lives) <= 3_600_000
    assert max(lives) - min(lives) > 1000  # they do not end together


async def test_a_result_that_cannot_be_stored_is_returned_and_counted(
    redis: Redis, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counter[tuple[str, str]]()
    cache = Cache(
        client=lambda: redis,
        namespace=redis_server.namespace,
        on_failure=lambda function, step: counted.update([(function, step)]),
    )

    @cached(cache, ttl=300, vary=None)
    async def get_legs(call_id: int) -> object:
        return (call_id, "1001", "1002")

    assert await get_legs(7) == (7, "1001", "1002")
    (function, step), *others = counted.elements()
    assert function.endswith("get_legs")
    assert (step, others) == ("encode", [])
    assert [record.name for record in caplog.records] == [
        "snippets.caching.read_through"
    ]


async def test_flushing_the_namespace_forgets_the_results(
    cache: Cache, redis: Redis
) -> None:
    calls = 0

    @cached(
        Cache(client=cache.client, namespace=f"{cache.namespace}:1"), ttl=300, vary=None
    )
    async def get_user(user_id: int) -> User:
        nonlocal calls
        calls += 1
        return ada(user_id)

    for user_id in range(5):
        await get_user(user_id)
    everything = namespaced(redis, cache.namespace, version=1, codec=Codec(str))

    assert await everything.flush() == 5
    await get_user(0)
    assert calls == 6


async def test_the_client_may_be_made_after_the_function(
    redis: Redis, redis_server: RedisServer
) -> None:
    clients: list[Redis] = []
    cache = Cache(client=lambda: clients[0], namespace=redis_server.namespace)

    @cached(cache, ttl=300, vary=None)
    async def get_user(user_id: int) -> User:
        return ada(user_id)

    clients.append(redis)
    assert await get_user(7) == ada(7)


async def test_the_naive_decorator_runs_once_for_each_waiting_caller(
    redis: Redis, redis_server: RedisServer, proof: Proof
) -> None:
    all_are_in = asyncio.Barrier(50)
    calls = 0

    @cached_naive.cached(redis, key_prefix=redis_server.namespace)
    async def get_user(user_id: int) -> int:
        nonlocal calls
        calls += 1
        await all_are_in.wait()  # nobody leaves before all 50 are in the function
        return user_id

    await asyncio.gather(*(get_user(7) for _ in range(50)))

    assert calls == 50
    proof.breaks("50 callers miss at once", "the function runs 50 times")


async def test_the_naive_decorator_computes_none_each_time(
    redis: Redis, redis_server: RedisServer, proof: Proof
) -> None:
    calls = 0

    @cached_naive.cached(redis, key_prefix=redis_server.namespace)
    async def get_user(user_id: int) -> str | None:
        nonlocal calls
        calls += 1
        return {1: "Ada"}.get(user_id)

    await get_user(7)
    await get_user(7)

    assert calls == 2
    proof.breaks("A user does not exist", "each call asks the database again")


async def test_the_naive_decorator_mixes_calls_up(
    redis: Redis, redis_server: RedisServer, proof: Proof
) -> None:
    @cached_naive.cached(redis, key_prefix=redis_server.namespace)
    async def search(text: str, tag: str = "") -> str:
        return f"text {text}, tag {tag}"

    await search("a", "b")

    assert await search("a:b") == "text a, tag b"
    proof.breaks('search("a:b") after search("a", "b")', "returns the other's result")


async def test_the_naive_invalidation_misses_calls_by_name(
    redis: Redis, redis_server: RedisServer, proof: Proof
) -> None:
    stored = "old"

    @cached_naive.cached(redis, key_prefix=redis_server.namespace)
    async def get_user(user_id: int) -> str:
        return f"{stored} {user_id}"

    await get_user(user_id=1)
    stored = "new"
    assert await redis.delete(f"{redis_server.namespace}:1") == 0

    assert await get_user(user_id=1) == "old 1"
    proof.breaks(
        'delete("user:1") after get_user(user_id=1)',
        "deletes nothing, and the old user is served",
    )


async def test_the_naive_decorator_fails_a_call_that_succeeded(
    redis: Redis, redis_server: RedisServer, proof: Proof
) -> None:
    saved = []

    @cached_naive.cached(redis, key_prefix=redis_server.namespace)
    async def get_user(user_id: int) -> User:
        saved.append(user_id)
        return ada(user_id)

    with pytest.raises(TypeError, match="User is not JSON serializable"):
        await get_user(7)
    assert saved == [7]
    proof.breaks("The function returns a model", "the call raises after it succeeded")
