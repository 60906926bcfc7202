"""An invalidation reaches every entry with the tag, and no late reader undoes it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from catalogue.plugin import Proof
from snippets.caching import cache_manager_naive
from snippets.caching.cache_manager import CacheManager
from snippets.caching.key_patterns import literal
from tests.support.counters import count_round_trips
from tests.support.redis_servers import (
    RedisServer,
)
from tests.support.tagged import HOUR, count, fill, kept, names, put

SHORT = 0.001
HOSTILE = ["", ":", "#", "=", "*", "[a]", "{b}", "a:entry:b", "\\", "\n\x00", "é 🙂"]


@pytest.fixture
def manager(redis: Redis, tagged: str) -> CacheManager:
    """A manager of this test's own."""
    return CacheManager(lambda: redis, tagged)


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


async def test_a_reader_that_began_before_an_invalidation_cannot_store_the_old_value(
    manager: CacheManager,
) -> None:
    slow = await manager.get("user:7")
    assert await manager.invalidate_by_tags("acme") == 0

    assert not await manager.set_with_tags(slow, b"old", "user:7", "acme", ttl=HOUR)
    assert (await manager.get("user:7")).payload is None
    assert await put(manager, "user:7", "acme")


async def test_nor_after_a_pattern(manager: CacheManager) -> None:
    slow = await manager.get("user:7")
    assert await manager.invalidate_pattern("user:*") == 0
    await manager.get("user:8")  # which makes new marks

    assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)


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
    tagged: str,
    error: type[BaseException],
    invalidate: Callable[[CacheManager], Awaitable[int]],
    left: int,
) -> None:
    manager = CacheManager(lambda: redis, tagged)
    await fill(redis, tagged, 600, "acme")
    slow = await manager.get("slow")
    clients = iter([redis])

    def client() -> Redis:
        for each in clients:
            return each
        raise error

    with pytest.raises(error):
        await invalidate(CacheManager(client, tagged))

    assert not await manager.set_with_tags(slow, b"old", "acme", ttl=HOUR)
    assert await count(redis, tagged) == left
    assert await invalidate(manager) == left
    assert await count(redis, tagged) == 0


async def test_what_reading_storing_and_invalidating_cost(
    manager: CacheManager, redis: Redis, tagged: str, proof: Proof
) -> None:
    await fill(redis, tagged, 499, "acme")

    with count_round_trips() as miss:
        await put(manager, "user:499", "acme", "users")
    with count_round_trips() as hit:
        await manager.get("user:499")
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
    manager: CacheManager, redis: Redis, tagged: str
) -> None:
    await put(manager, "tag:acme", "acme")
    await put(manager, "user:7", "acme")
    before = await names(redis, tagged)

    for pattern in (":index:*", "*index*", "#*", "", "..*", "[^ut]*"):
        assert await manager.invalidate_pattern(pattern) == 0
    assert await names(redis, tagged) == before - {""}
    assert await manager.invalidate_pattern("tag:*") == 1
    assert ":index:#acme" in await names(redis, tagged)
    assert await manager.invalidate_by_tags("acme") == 1


async def test_two_tenants_share_nothing(
    manager: CacheManager, redis: Redis, tagged: str
) -> None:
    others = [CacheManager(lambda: redis, f"{tagged}{end}") for end in (":1", "0", "*")]
    for each in (manager, *others):
        await put(each, "user:7", "acme")

    assert await manager.invalidate_by_tags("acme") == 1
    assert await others[2].invalidate_pattern("*") == 1
    for each in others[:2]:
        assert await kept(each, "user:7") == ["user:7"]
        assert await put(each, "user:8", "acme")


@pytest.mark.parametrize("ttl", [0, -1, 0.0001, float("inf"), float("nan")])
async def test_a_time_to_live_that_is_none_is_refused(
    manager: CacheManager, ttl: float
) -> None:
    reading = await manager.get("user:7")

    with pytest.raises(ValueError, match="is not a time"):
        await manager.set_with_tags(reading, b"Ada", ttl=ttl)


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
    redis: Redis, tagged: str, steps: list[tuple[object, ...]]
) -> None:
    async for each in redis.scan_iter(f"{{{tagged}*", count=1000):
        await redis.unlink(each)
    manager = CacheManager(lambda: redis, tagged)
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
