"""An invalidation reaches every entry with the tag, and no late reader undoes it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from catalogue.plugin import Proof
from snippets.caching import cache_manager_naive
from snippets.caching.cache_manager import CacheManager
from snippets.caching.codec import Codec
from snippets.caching.key_patterns import literal
from snippets.caching.redis_client import create_redis
from tests.support.counters import count_round_trips
from tests.support.redis_faults import faulty_server
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    RedisServer,
)

HOUR = 3600.0
SHORT = 0.001
HOSTILE = ["", ":", "#", "=", "*", "[a]", "{b}", "a:entry:b", "\\", "\n\x00", "é 🙂"]


async def forget(redis: Redis, namespace: str) -> None:
    """Remove every key of a manager, which the test's server would not find."""
    async for key in redis.scan_iter(f"{{{namespace}*", count=1000):
        await redis.unlink(key)


async def names(redis: Redis, manager_namespace: str) -> set[str]:
    """Return what a manager keeps in Redis, without its prefix."""
    prefix = f"{{{manager_namespace}}}"
    keys = [key async for key in redis.scan_iter(f"{prefix}*", count=1000)]
    return {key.decode().removeprefix(prefix) for key in keys}


async def put(manager: CacheManager, key: str, *tags: str, ttl: float = HOUR) -> bool:
    """Store a value as a reader does who finds none."""
    return await manager.set_with_tags(
        await manager.get(key), key.encode(), *tags, ttl=ttl
    )


async def fill(manager: CacheManager, keys: list[str], *tags: str) -> None:
    """Store many entries."""
    reading = await manager.get(keys[0])
    for key in keys:
        each = reading._replace(key=key)
        assert await manager.set_with_tags(each, b"x", *tags, ttl=HOUR)


async def kept(manager: CacheManager, *keys: str) -> list[str]:
    """Return those keys that have a value."""
    return [key for key in keys if (await manager.get(key)).payload is not None]


@pytest.fixture
async def namespace(redis_server: RedisServer, redis: Redis) -> AsyncIterator[str]:
    """A namespace of this test's own."""
    yield redis_server.namespace
    await forget(redis, redis_server.namespace)


@pytest.fixture
def manager(redis: Redis, namespace: str) -> CacheManager:
    """A manager of this test's own."""
    return CacheManager(lambda: redis, namespace)


@pytest.mark.parametrize("payload", [b"", b"=", b"\x00\xff\r\n", b"Ada" * 999])
async def test_what_was_stored_is_read(manager: CacheManager, payload: bytes) -> None:
    reading = await manager.get("user:7")
    assert reading.payload is None

    assert await manager.set_with_tags(reading, payload, "acme", ttl=HOUR)
    assert (await manager.get("user:7")).payload == payload


async def test_every_entry_with_the_tag_goes_and_no_other(
    manager: CacheManager,
) -> None:
    await put(manager, "user:7", "acme", "user:7")
    await put(manager, "team:1", "acme")
    await put(manager, "team:2", "globex")
    await put(manager, "untagged")

    assert await manager.invalidate_by_tags("acme") == 2
    assert await kept(manager, "user:7", "team:1", "team:2", "untagged") == [
        "team:2",
        "untagged",
    ]
    assert await manager.invalidate_by_tags("acme") == 0


async def test_an_entry_with_two_of_the_tags_is_counted_once(
    manager: CacheManager,
) -> None:
    await put(manager, "user:7", "acme", "admins")
    await put(manager, "user:8", "acme")

    assert await manager.invalidate_by_tags("acme", "admins", "acme", "nobody") == 2


async def test_without_a_tag_nothing_is_invalidated(manager: CacheManager) -> None:
    await put(manager, "user:7", "acme")

    with count_round_trips() as trips:
        assert await manager.invalidate_by_tags() == 0
    assert trips.total == 0
    assert await kept(manager, "user:7") == ["user:7"]


async def test_the_index_outlives_its_longest_entry_whichever_came_first(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    await put(manager, "long", "first long", ttl=HOUR)
    await put(manager, "short", "first long", ttl=1)
    await put(manager, "short", "first short", ttl=1)
    await put(manager, "other long", "first short", ttl=HOUR)

    for tag in ("first long", "first short"):
        life = await redis.pttl(f"{{{namespace}}}:index:#{tag}")
        assert life > HOUR * 1000 - 60_000
    assert await manager.invalidate_by_tags("first long") == 2
    assert await manager.invalidate_by_tags("first short") == 1


async def test_an_entry_that_ended_is_not_counted(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    await put(manager, "user:7", "acme")
    await put(manager, "user:8", "acme")
    await redis.delete(f"{{{namespace}}}:entry:user:7")  # as the end of its life does

    assert await manager.invalidate_by_tags("acme") == 1


async def test_an_entry_stored_anew_without_a_tag_is_not_removed_by_it(
    manager: CacheManager,
) -> None:
    first, second = await manager.get("user:7"), await manager.get("user:7")
    await manager.set_with_tags(first, b"Ada", "acme", ttl=HOUR)
    await manager.set_with_tags(second, b"Ada", "globex", ttl=HOUR)

    assert await manager.invalidate_by_tags("acme") == 0
    assert await kept(manager, "user:7") == ["user:7"]
    assert await manager.invalidate_by_tags("globex") == 1


async def test_after_all_entries_have_ended_only_the_marks_are_left(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    await put(manager, "user:7", "acme", "user:7", ttl=SHORT)
    await put(manager, "user:8", "acme", ttl=SHORT)

    async with asyncio.timeout(20):
        while await names(redis, namespace) != {""}:
            pass  # for a millisecond, by the server's clock
    assert 0 < await redis.ttl(f"{{{namespace}}}") <= 3600


async def test_everything_ends_by_itself(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    await put(manager, "user:7", "acme", "user:7")
    await manager.invalidate_by_tags("user:8")
    await put(manager, "user:8", "acme")
    await manager.invalidate_pattern("user:8")
    await manager.get("user:9")

    left = await names(redis, namespace)
    assert left == {"", ":entry:user:7", ":index:#acme", ":index:#user:7"}
    for name in left:
        assert 0 < await redis.pttl(f"{{{namespace}}}{name}") <= HOUR * 1000


async def test_an_index_does_not_gather_what_ended(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    for number in range(5):
        await put(manager, f"short:{number}", "acme", ttl=SHORT)
    await put(manager, "long", "acme")
    async with asyncio.timeout(20):
        while await kept(manager, *(f"short:{number}" for number in range(5))):
            pass  # for a millisecond, by the server's clock

    await put(manager, "another", "acme")

    index = await redis.zrange(f"{{{namespace}}}:index:#acme", 0, -1)
    assert sorted(index) == [b"another", b"long"]


async def test_a_store_that_fails_half_way_leaves_no_value(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    await redis.set(f"{{{namespace}}}:index:#b", "of another program", px=60_000)
    reading = await manager.get("user:7")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await manager.set_with_tags(reading, b"Ada", "a", "b", "c", ttl=HOUR)
    left = await names(redis, namespace)
    assert left == {"", ":index:#a", ":index:#b"}
    for name in left:
        assert await redis.pttl(f"{{{namespace}}}{name}") > 0


async def test_a_reader_that_began_before_an_invalidation_cannot_store_the_old_value(
    manager: CacheManager,
) -> None:
    slow = await manager.get("user:7")
    assert await manager.invalidate_by_tags("acme") == 0

    assert not await manager.set_with_tags(slow, b"old", "user:7", "acme", ttl=HOUR)
    assert (await manager.get("user:7")).payload is None
    assert await put(manager, "user:7", "acme")


async def test_nor_in_another_process_while_the_new_value_is_there(
    manager: CacheManager, redis_server: RedisServer, namespace: str
) -> None:
    other_redis = redis_server.client()
    other = CacheManager(lambda: other_redis, namespace)
    slow = await other.get("user:7")
    await manager.invalidate_by_tags("acme")
    new = await manager.get("user:7")
    assert await manager.set_with_tags(new, b"new", "acme", ttl=HOUR)

    assert not await other.set_with_tags(slow, b"old", "acme", ttl=HOUR)
    assert (await manager.get("user:7")).payload == b"new"


async def test_nor_between_two_invalidations(manager: CacheManager) -> None:
    await manager.invalidate_by_tags("acme")
    slow = await manager.get("user:7")
    await manager.invalidate_by_tags("acme")

    assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)


async def test_nor_after_a_pattern(manager: CacheManager) -> None:
    slow = await manager.get("user:7")
    assert await manager.invalidate_pattern("user:*") == 0
    await manager.get("user:8")  # which makes new marks

    assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)


async def test_nor_when_the_marks_are_lost(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    slow, slower = await manager.get("user:7"), await manager.get("user:8")
    await manager.invalidate_by_tags("acme")
    await redis.delete(f"{{{namespace}}}")  # evicted, say

    assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)
    await manager.get("user:9")
    assert not await manager.set_with_tags(slower, b"old", "acme", ttl=HOUR)


async def test_a_reader_is_not_told_of_a_tag_that_its_value_does_not_carry(
    manager: CacheManager,
) -> None:
    slow = await manager.get("user:7")
    await manager.invalidate_by_tags("globex")

    assert await manager.set_with_tags(slow, b"Ada", "acme", ttl=HOUR)


async def test_the_marks_are_bounded_and_who_is_older_than_all_of_them_is_refused(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    slow = await manager.get("user:7")
    for part in range(11):
        tags = (f"tag:{part}:{number}" for number in range(1000))
        await manager.invalidate_by_tags(*tags)
    recent = await manager.get("user:8")

    assert await redis.zcard(f"{{{namespace}}}") <= 10_000
    assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)
    assert await manager.set_with_tags(recent, b"new", "tag:0:0", ttl=HOUR)


async def test_who_was_given_a_value_has_no_right_to_store(
    manager: CacheManager,
) -> None:
    await put(manager, "user:7", "acme")
    reading = await manager.get("user:7")

    assert not await manager.set_with_tags(reading, b"other", "acme", ttl=HOUR)
    assert (await manager.get("user:7")).payload == b"user:7"


async def test_entries_stored_while_an_invalidation_goes_on_are_not_orphaned(
    manager: CacheManager, redis_server: RedisServer, namespace: str
) -> None:
    await fill(manager, [f"user:{number}" for number in range(1200)], "acme")
    other_redis = redis_server.client()
    other = CacheManager(lambda: other_redis, namespace)
    stored = asyncio.create_task(
        keep_storing(lambda number: put(other, f"late:{number}", "acme"))
    )

    removed = await manager.invalidate_by_tags("acme")
    late = await stored
    assert removed >= 1200

    keys = [f"late:{number}" for number in range(late)]
    left = len(await kept(manager, *keys))
    assert await manager.invalidate_by_tags("acme") == left  # each can still be found
    assert await kept(manager, *keys) == []


async def keep_storing(store: Callable[[int], Awaitable[bool]]) -> int:
    """Store 30 entries, one at a time."""
    for number in range(30):
        await store(number)
    return 30


@pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError])
@pytest.mark.parametrize(
    ("invalidate", "left"),
    [
        (lambda manager: manager.invalidate_by_tags("acme"), 100),
        (lambda manager: manager.invalidate_pattern("*"), 600),
    ],
    ids=["tag", "pattern"],
)
async def test_an_invalidation_that_stopped_half_way_can_be_repeated(
    redis: Redis,
    namespace: str,
    error: type[BaseException],
    invalidate: Callable[[CacheManager], Awaitable[int]],
    left: int,
) -> None:
    manager = CacheManager(lambda: redis, namespace)
    keys = [f"user:{number}" for number in range(600)]
    await fill(manager, keys, "acme")
    slow = await manager.get("slow")
    clients = iter([redis])

    def client() -> Redis:
        for each in clients:
            return each
        raise error

    with pytest.raises(error):
        await invalidate(CacheManager(client, namespace))

    assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)
    assert len(await kept(manager, *keys)) == left
    assert await invalidate(manager) == left
    assert await kept(manager, *keys) == []


async def test_what_reading_storing_and_invalidating_cost(
    manager: CacheManager, proof: Proof
) -> None:
    await fill(manager, [f"user:{number}" for number in range(499)], "acme", "users")

    with count_round_trips() as miss:
        await put(manager, "user:499", "acme", "users")
    with count_round_trips() as hit:
        await manager.get("user:7")
    with count_round_trips() as few:
        await manager.invalidate_by_tags("nobody")
    with count_round_trips() as many:
        assert await manager.invalidate_by_tags("acme") == 500

    assert miss.commands == ["HGET", "EVAL", "EVAL"]
    assert hit.commands == ["HGET"]
    assert few.total == 1
    assert many.total == 2
    proof.cost("hit", round_trips=1)
    proof.cost("miss and store", round_trips=3)
    proof.cost("invalidate tags of fewer than 500 entries", round_trips=1)
    proof.cost("invalidate a tag of 500 entries", round_trips=2)


@pytest.mark.parametrize(("key", "tag"), list(zip(HOSTILE, HOSTILE[::-1], strict=True)))
async def test_keys_and_tags_may_be_any_text(
    manager: CacheManager, key: str, tag: str
) -> None:
    await put(manager, key, tag)
    await put(manager, "user:7", "acme")
    await put(manager, key + "0", tag + "0")

    every = [key, "user:7", key + "0"]
    assert await kept(manager, *every) == every
    assert await manager.invalidate_by_tags(tag) == 1
    assert await kept(manager, *every) == every[1:]
    await put(manager, key, tag)
    assert await manager.invalidate_pattern(literal(key)) == 1
    assert await kept(manager, *every) == every[1:]
    assert await manager.invalidate_by_tags("acme", tag + "0") == 2


async def test_a_pattern_never_reaches_an_index_or_the_marks(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    await put(manager, "tag:acme", "acme")
    await put(manager, "user:7", "acme")
    before = await names(redis, namespace)

    for pattern in (":index:*", "*index*", "#*", "", "..*", "[^ut]*"):
        assert await manager.invalidate_pattern(pattern) == 0
    assert await names(redis, namespace) == before - {""}
    assert await manager.invalidate_pattern("tag:*") == 1
    assert ":index:#acme" in await names(redis, namespace)
    assert await manager.invalidate_by_tags("acme") == 1


async def test_two_tenants_share_nothing(
    manager: CacheManager, redis: Redis, namespace: str
) -> None:
    others = [
        CacheManager(lambda: redis, f"{namespace}{end}") for end in (":1", "0", "*")
    ]
    for each in (manager, *others):
        await put(each, "user:7", "acme")

    assert await manager.invalidate_by_tags("acme") == 1
    assert await others[2].invalidate_pattern("*") == 1
    for each in others[:2]:
        assert await kept(each, "user:7") == ["user:7"]
        assert await put(each, "user:8", "acme")


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "{}"])
def test_a_namespace_that_would_spread_over_slots_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="in one slot"):
        CacheManager(Redis, namespace)


@pytest.mark.parametrize("ttl", [0, -1, 0.0001, float("inf"), float("nan")])
async def test_a_time_to_live_that_is_none_is_refused(
    manager: CacheManager, ttl: float
) -> None:
    reading = await manager.get("user:7")

    with pytest.raises(ValueError, match="is not a time"):
        await manager.set_with_tags(reading, b"Ada", ttl=ttl)


async def test_a_client_that_decodes_responses_is_refused(
    manager: CacheManager, redis_server: RedisServer, namespace: str
) -> None:
    decoding = redis_server.client(decode_responses=True)
    await put(manager, "user:7")

    with pytest.raises(TypeError, match="does not decode"):
        await CacheManager(lambda: decoding, namespace).get("user:7")


STEPS = st.one_of(
    st.tuples(st.just("store"), st.integers(0, 3), st.sets(st.sampled_from("abc"))),
    st.tuples(st.just("tags"), st.sets(st.sampled_from("abc"))),
    st.tuples(st.just("pattern"), st.sampled_from(["*", "[01]", "2", "?"])),
    st.tuples(st.just("read"), st.integers(0, 3)),
    st.tuples(st.just("store what was read"), st.sets(st.sampled_from("abc"))),
)
MATCHES = {"*": "0123", "[01]": "01", "2": "2", "?": "0123"}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, max_size=15))
async def test_it_behaves_as_a_dictionary_of_tagged_values(
    redis: Redis, namespace: str, steps: list[tuple[object, ...]]
) -> None:
    await forget(redis, namespace)
    manager = CacheManager(lambda: redis, namespace)
    model: dict[str, set[str]] = {}
    reading, changed, by_pattern = None, set[str](), False
    for step in steps:
        match step:
            case ("store", int(key), set(tags)):
                if str(key) not in model:
                    assert await put(manager, str(key), *tags)
                    model[str(key)] = tags
            case ("tags", set(tags)):
                gone = {key for key, own in model.items() if own & tags}
                assert await manager.invalidate_by_tags(*tags) == len(gone)
                model = {key: model[key] for key in model.keys() - gone}
                changed |= tags
            case ("pattern", str(pattern)):
                gone = model.keys() & set(MATCHES[pattern])
                assert await manager.invalidate_pattern(pattern) == len(gone)
                model = {key: model[key] for key in model.keys() - gone}
                by_pattern = True
            case ("read", int(key)):
                reading, changed, by_pattern = await manager.get(str(key)), set(), False
            case ("store what was read", set(tags)) if reading is not None:
                may = reading.payload is None and not by_pattern and not changed & tags
                stored = await manager.set_with_tags(reading, b"x", *tags, ttl=HOUR)
                assert stored == may
                if stored:
                    model[reading.key] = tags
            case _:
                pass
        assert await kept(manager, *"0123") == sorted(model)


async def test_an_outage_is_raised_and_afterwards_all_goes_on(
    redis_backend: str, private_redis: PrivateRedisServer, namespace: str
) -> None:
    assert redis_backend
    users = Codec(list[str])
    async with create_redis(private_redis.url, timeout=0.5) as client:
        manager = CacheManager(lambda: client, namespace)
        slow = await manager.get("team:1")
        with private_redis.down():
            for call in (
                manager.get("team:1"),
                manager.set_with_tags(slow, b"[]", "acme", ttl=HOUR),
                manager.invalidate_by_tags("acme"),
                manager.invalidate_pattern("*"),
            ):
                with pytest.raises(RedisError):
                    await call

        # Its memory is gone, and with it the marks: nobody is trusted who read before.
        assert not await manager.set_with_tags(slow, b"[]", "acme", ttl=HOUR)
        reading = await manager.get("team:1")
        await manager.set_with_tags(reading, users.encode(["Ada"]), "acme", ttl=HOUR)
        assert users.decode((await manager.get("team:1")).payload or b"") == ["Ada"]


@pytest.mark.parametrize("reply", [None, b"nonsense\r\n", b"$5\r\nAda"])
async def test_a_server_that_is_silent_or_talks_nonsense_is_given_up(
    reply: bytes | None,
) -> None:
    async with (
        faulty_server(reply) as server,
        create_redis(server.url, timeout=0.05) as client,
        asyncio.timeout(10),
    ):
        manager = CacheManager(lambda: client, "telephony:1")
        with pytest.raises((RedisError, ValueError)):
            await manager.get("user:7")
        with pytest.raises((RedisError, ValueError)):
            await manager.invalidate_by_tags("acme")


async def test_a_fake_outage_is_raised_too(
    redis_server: RedisServer, manager: CacheManager
) -> None:
    if isinstance(redis_server, FakeRedisServer):
        with redis_server.down(), pytest.raises(RedisError):
            await manager.invalidate_by_tags("acme")
    await put(manager, "user:7", "acme")
    assert await manager.invalidate_by_tags("acme") == 1


@pytest.fixture
def naive(redis: Redis) -> cache_manager_naive.CacheManager:
    """The naive version."""
    return cache_manager_naive.CacheManager(redis)


async def test_a_naive_index_ends_before_its_longest_entry(
    naive: cache_manager_naive.CacheManager,
    redis: Redis,
    redis_server: RedisServer,
    proof: Proof,
) -> None:
    ns = redis_server.namespace
    await naive.set_with_tags(f"{ns}:long", b"Ada", [ns], ttl=3600)
    await naive.set_with_tags(f"{ns}:short", b"Ada", [ns], ttl=1)
    assert await redis.ttl(f"tag:{ns}") <= 1
    await redis.delete(f"tag:{ns}")  # a second later

    assert await naive.invalidate_by_tags([ns]) == 0
    assert await redis.get(f"{ns}:long") == b"Ada"
    proof.breaks(
        "An entry for an hour is stored, then one for a second with the same tag",
        "the tag's set ends with the second one, and the first cannot be invalidated",
    )


async def test_a_naive_reader_stores_the_old_value_after_an_invalidation(
    naive: cache_manager_naive.CacheManager,
    redis: Redis,
    redis_server: RedisServer,
    proof: Proof,
) -> None:
    key = f"{redis_server.namespace}:user:7"
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        if await redis.get(key) is None:
            has_begun.set()
            await may_end.wait()
            await naive.set_with_tags(key, b"old", [key], ttl=60)

    slow = asyncio.create_task(read())
    await has_begun.wait()
    await naive.invalidate_by_tags([key])
    may_end.set()
    await slow

    assert await redis.get(key) == b"old"
    await naive.invalidate_by_tags([key])
    proof.breaks(
        "A user's tag is invalidated while a slow reader loads the user",
        "the old user is stored, and served until its time is over",
    )


@pytest.mark.backends("fakeredis")
async def test_a_naive_pattern_deletes_the_index_and_what_is_not_a_cache(
    naive: cache_manager_naive.CacheManager, redis: Redis, proof: Proof
) -> None:
    await naive.set_with_tags("user:7", b"Ada", ["acme"])
    await redis.set("billing:credit", "12.50")

    assert await naive.invalidate_pattern("*") == 3
    assert await redis.keys() == []
    proof.breaks(
        "The pattern * is invalidated",
        "the sets of the tags are deleted, and so are the keys of other programs",
    )
