"""A value and its tags are never parted, and no reader undoes an invalidation."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as GoneError
from redis.exceptions import RedisError, ResponseError

from catalogue.plugin import Proof
from snippets.caching import tag_index_naive
from snippets.caching.redis_client import create_redis
from snippets.caching.tag_index import CENTURY, TagIndex
from tests.support.counters import count_round_trips
from tests.support.redis_faults import faulty_server
from tests.support.redis_servers import (
    FakeRedisServer,
    PrivateRedisServer,
    RedisServer,
)
from tests.support.tagged import HOUR, fill, kept, names, put

SHORT = 0.001
HOSTILE = [
    "",
    ":",
    "#",
    "@",
    "=",
    "*",
    "[a]",
    "{b}",
    "a:entry:b",
    "\\",
    "\n\x00",
    "é 🙂",
]


@pytest.fixture
def index(redis: Redis, tagged: str) -> TagIndex:
    """An index of this test's own."""
    return TagIndex(lambda: redis, tagged)


async def test_the_index_outlives_its_longest_entry_whichever_came_first(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    lives = {"long": 24 * HOUR, "short": HOUR}
    for first, second in (("long", "short"), ("short", "long")):
        for each in (first, second):
            key = f"{each} of first {first}"
            assert await put(index, key, f"first {first}", ttl=lives[each])

    for tag in ("first long", "first short"):
        life = await redis.pttl(f"{{{tagged}}}:index:#{tag}")
        assert life > 23 * HOUR * 1000
    assert await index.invalidate("first long") == 2
    assert await index.invalidate("first short") == 2


async def test_an_entry_that_ended_is_not_counted(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    await put(index, "user:7", "acme")
    await put(index, "user:8", "acme")
    await redis.delete(f"{{{tagged}}}:entry:user:7")  # as the end of its life does

    assert await index.invalidate("acme") == 1


async def test_an_entry_stored_anew_without_a_tag_is_not_removed_by_it(
    index: TagIndex,
) -> None:
    first, second = await index.read("user:7"), await index.read("user:7")
    await index.store(first, b"Ada", "acme", ttl=HOUR)
    await index.store(second, b"Ada", "globex", ttl=HOUR)

    assert await index.invalidate("acme") == 0
    assert await kept(index, "user:7") == ["user:7"]
    assert await index.invalidate("globex") == 1


async def test_after_all_entries_have_ended_only_the_marks_are_left(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    await put(index, "user:7", "first long", ttl=10 * SHORT)
    await put(index, "user:8", "first long", "first short", ttl=SHORT)
    await put(index, "user:9", "first short", ttl=10 * SHORT)

    async with asyncio.timeout(20):
        while await names(redis, tagged) != {""}:
            pass  # for ten milliseconds, by the server's clock
    assert 0 < await redis.ttl(f"{{{tagged}}}") <= 3600


async def test_everything_ends_by_itself(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    await put(index, "user:7", "acme", "user:7")
    await index.invalidate("user:8")
    await put(index, "user:8", "acme")
    await index.invalidate_key("user:8")
    await index.read("user:9")

    left = await names(redis, tagged)
    assert left == {"", ":entry:user:7", ":index:#acme", ":index:#user:7"}
    for name in left:
        assert 0 < await redis.pttl(f"{{{tagged}}}{name}") <= HOUR * 1000


async def test_an_index_does_not_gather_what_ended(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    assert await put(index, "long", "acme")  # without which the index would end
    for number in range(5):
        assert await put(index, f"short:{number}", "acme", ttl=SHORT)
    async with asyncio.timeout(20):
        while await kept(index, *(f"short:{number}" for number in range(5))):
            pass  # for a millisecond, by the server's clock

    await put(index, "another", "acme")

    left = await redis.zrange(f"{{{tagged}}}:index:#acme", 0, -1)
    assert sorted(left) == [b"another", b"long"]


async def test_a_store_that_fails_half_way_leaves_no_value(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    await redis.set(f"{{{tagged}}}:index:#b", "of another program", px=60_000)
    reading = await index.read("user:7")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await index.store(reading, b"Ada", "a", "b", "c", ttl=HOUR)
    left = await names(redis, tagged)
    assert left == {"", ":index:#a", ":index:#b"}
    for name in left:
        assert await redis.pttl(f"{{{tagged}}}{name}") > 0


async def test_nor_in_another_process_while_the_new_value_is_there(
    index: TagIndex, redis_server: RedisServer, tagged: str
) -> None:
    other_redis = redis_server.client()
    other = TagIndex(lambda: other_redis, tagged)
    slow = await other.read("user:7")
    await index.invalidate("acme")
    new = await index.read("user:7")
    assert await index.store(new, b"new", "acme", ttl=HOUR)

    assert not await other.store(slow, b"old", "acme", ttl=HOUR)
    assert (await index.read("user:7")).payload == b"new"


async def test_nor_between_two_invalidations(index: TagIndex) -> None:
    await index.invalidate("acme")
    slow = await index.read("user:7")
    await index.invalidate("acme")

    assert not await index.store(slow, b"old", "acme", ttl=HOUR)


async def test_nor_when_the_marks_are_lost(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    slow, slower = await index.read("user:7"), await index.read("user:8")
    await index.invalidate("acme")
    await redis.delete(f"{{{tagged}}}")  # evicted, say

    assert not await index.store(slow, b"old", "acme", ttl=HOUR)
    await index.read("user:9")
    assert not await index.store(slower, b"old", "acme", ttl=HOUR)


@pytest.mark.parametrize("call", ["read", "invalidate", "invalidate_key"])
async def test_the_marks_last_an_hour_from_the_newest_miss_or_invalidation(
    index: TagIndex, redis: Redis, tagged: str, call: str
) -> None:
    slow = await index.read("user:7")
    await redis.expire(f"{{{tagged}}}", 10)  # when most of the hour has passed
    await getattr(index, call)("user:8")

    assert HOUR - 60 < await redis.ttl(f"{{{tagged}}}") <= HOUR
    assert await index.store(slow, b"Ada", "acme", ttl=HOUR)


async def test_a_reader_is_not_told_of_a_tag_that_its_value_does_not_carry(
    index: TagIndex,
) -> None:
    slow = await index.read("user:7")
    await index.invalidate("globex")
    await index.read("user:8")  # by which the first mark is not renewed

    assert await index.store(slow, b"Ada", "acme", ttl=HOUR)


async def test_the_marks_are_bounded_and_who_is_older_than_all_of_them_is_refused(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    slow = await index.read("user:7")
    for part in range(11):
        tags = (f"tag:{part}:{number}" for number in range(1000))
        await index.invalidate(*tags)
    recent = await index.read("user:8")

    assert await redis.zcard(f"{{{tagged}}}") <= 10_000
    assert not await index.store(slow, b"old", "acme", ttl=HOUR)
    assert await index.store(recent, b"new", "tag:0:0", ttl=HOUR)


async def test_who_was_given_a_value_has_no_right_to_store(
    index: TagIndex,
) -> None:
    await put(index, "user:7", "acme")
    reading = await index.read("user:7")

    with count_round_trips() as trips:
        assert not await index.store(reading, b"other", "acme", ttl=HOUR)
    assert trips.total == 0
    assert (await index.read("user:7")).payload == b"user:7"


async def test_entries_stored_while_an_invalidation_goes_on_are_not_orphaned(
    index: TagIndex, redis: Redis, redis_server: RedisServer, tagged: str
) -> None:
    await fill(redis, tagged, 1200, "acme")
    other_redis = redis_server.client()
    other = TagIndex(lambda: other_redis, tagged)
    stored = asyncio.create_task(
        keep_storing(lambda number: put(other, f"late:{number}", "acme"))
    )

    removed = await index.invalidate("acme")
    late = await stored
    assert removed >= 1200

    keys = [f"late:{number}" for number in range(late)]
    left = len(await kept(index, *keys))
    assert await index.invalidate("acme") == left  # each can still be found
    assert await kept(index, *keys) == []


async def keep_storing(store: Callable[[int], Awaitable[bool]]) -> int:
    """Store 30 entries, one at a time."""
    for number in range(30):
        await store(number)
    return 30


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "{}"])
def test_a_namespace_that_would_spread_over_slots_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="in one slot"):
        TagIndex(Redis, namespace)


async def test_a_client_that_decodes_responses_is_refused(
    index: TagIndex, redis_server: RedisServer, tagged: str
) -> None:
    decoding = redis_server.client(decode_responses=True)
    await put(index, "user:7")

    with pytest.raises(TypeError, match="does not decode"):
        await TagIndex(lambda: decoding, tagged).read("user:7")


@pytest.mark.parametrize(
    "ttl", [0, -1, 0.0001, 3.2e9, 1e16, float("inf"), float("nan")]
)
async def test_a_time_to_live_that_is_none_is_refused(
    index: TagIndex, redis: Redis, tagged: str, ttl: float
) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        await put(index, "user:7", "acme", ttl=ttl)

    assert await names(redis, tagged) == {""}


async def test_the_longest_time_to_live_is_taken(
    index: TagIndex, redis: Redis, tagged: str
) -> None:
    assert await put(index, "user:7", "acme", ttl=CENTURY)

    for name in (":entry:user:7", ":index:#acme"):
        assert await redis.pttl(f"{{{tagged}}}{name}") > 0


async def test_a_key_is_invalidated_with_the_right_of_its_readers_and_no_other_key(
    index: TagIndex,
) -> None:
    slow, other = await index.read("user:7"), await index.read("user:70")
    assert not await index.invalidate_key("user:7")  # there is none yet

    assert not await index.store(slow, b"old", ttl=HOUR)
    assert await index.store(other, b"Ada", "user:7", "@user:7", ttl=HOUR)
    assert await put(index, "user:7", "acme")
    assert await index.invalidate_key("user:7")
    assert await kept(index, "user:7", "user:70") == ["user:70"]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_key_is_no_tag_and_a_hostile_tag_no_key(
    index: TagIndex, name: str
) -> None:
    await put(index, name, "acme")
    await put(index, f"@{name}", f"#{name}", f"@{name}")
    await put(index, f"#{name}", name)

    assert await index.invalidate(f"entry:{name}", f"index:{name}") == 0
    assert await index.invalidate(f"@{name}") == 1
    assert await index.invalidate(name) == 1
    assert await kept(index, name) == [name]
    assert await index.invalidate_key(name)
    assert await kept(index, name, f"@{name}", f"#{name}") == []


async def test_a_value_may_have_thousands_of_tags(index: TagIndex) -> None:
    tags = [f"user:{number}" for number in range(10_000)]

    assert await put(index, "team:1", *tags)
    assert await index.invalidate(tags[-1]) == 1
    assert await kept(index, "team:1") == []


async def test_a_key_or_a_tag_that_is_no_utf_8_is_refused(index: TagIndex) -> None:
    half = "\ud83d"  # of a character
    reading = await index.read("user:7")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: index.read(half),
        lambda: index.store(reading, b"Ada", half, ttl=HOUR),
        lambda: index.invalidate(half),
        lambda: index.invalidate_key(half),
    ]

    for call in calls:
        with pytest.raises(UnicodeEncodeError):
            await call()
    assert await index.store(reading, b"Ada", ttl=HOUR)


@pytest.mark.parametrize("error", [GoneError, asyncio.CancelledError])
async def test_a_client_that_fails_before_the_script_leaves_nothing(
    index: TagIndex, redis: Redis, tagged: str, error: type[BaseException]
) -> None:
    def client() -> Redis:
        raise error

    reading = await index.read("user:7")
    with pytest.raises(error):
        await TagIndex(client, tagged).store(reading, b"Ada", "acme", ttl=HOUR)

    assert await names(redis, tagged) == {""}


async def test_a_naive_value_whose_tag_was_not_written_cannot_be_invalidated(
    redis: Redis, tagged: str, proof: Proof
) -> None:
    key, tag = f"{{{tagged}}}:user:7", f"{{{tagged}}}:acme"
    await redis.set(tag, "of another program")  # any failure between the two will do
    with pytest.raises(ResponseError):
        await tag_index_naive.store(redis, key, b"Ada", tag)
    await redis.delete(tag)

    assert await tag_index_naive.invalidate(redis, tag) == 0
    assert await redis.get(key) == b"Ada"
    proof.breaks(
        "The process ends between the value and its tag",
        "the value is served, and no invalidation finds it",
    )


async def test_a_naive_tag_gathers_the_keys_of_entries_that_ended(
    redis: Redis, tagged: str, proof: Proof
) -> None:
    tag = f"{{{tagged}}}:acme"
    for number in range(100):
        await tag_index_naive.store(redis, f"{tag}:{number}", b"Ada", tag)
        await redis.delete(f"{tag}:{number}")  # as the end of its life does

    assert await redis.scard(tag) == 100
    assert await redis.ttl(tag) == -1
    proof.breaks(
        "100 entries of a tag have ended",
        "the tag's set still has 100 keys, and lives for ever",
    )


async def test_what_reading_storing_and_invalidating_cost(
    index: TagIndex, proof: Proof
) -> None:
    with count_round_trips() as miss:
        await put(index, "user:7", "acme", "users")
    with count_round_trips() as hit:
        await index.read("user:7")
    with count_round_trips() as tag:
        assert await index.invalidate("acme") == 1
    with count_round_trips() as key:
        await index.invalidate_key("user:7")

    assert miss.commands == ["HGET", "EVAL", "EVAL"]
    assert hit.commands == ["HGET"]
    assert (tag.total, key.total) == (1, 1)
    proof.cost("hit", round_trips=1)
    proof.cost("miss and store", round_trips=3)
    proof.cost("invalidate a tag, or a key", round_trips=1)


async def test_while_redis_is_gone_every_call_raises_what_the_client_raises(
    breakable: FakeRedisServer | PrivateRedisServer,
) -> None:
    redis = breakable.client()
    index = TagIndex(lambda: redis, "telephony:1")
    reading = await index.read("user:7")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: index.read("user:7"),
        lambda: index.store(reading, b"Ada", "acme", ttl=HOUR),
        lambda: index.invalidate("acme"),
        lambda: index.invalidate_key("user:7"),
    ]
    with breakable.down():
        for call in calls:
            with pytest.raises(RedisError):
                await call()

    # A private server's memory is gone, and the marks with it: nobody is trusted.
    still = isinstance(breakable, FakeRedisServer)
    assert await index.store(reading, b"Ada", "acme", ttl=HOUR) == still
    assert await put(index, "user:8", "acme")


@pytest.mark.parametrize("reply", [b":1\r\n", b"*2\r\n:1\r\n:2\r\n", b"+OK\r\n"])
async def test_an_answer_of_another_type_is_an_error_of_redis(reply: bytes) -> None:
    async with faulty_server(reply) as server, create_redis(server.url) as client:
        index = TagIndex(lambda: client, "telephony:1")
        with pytest.raises(RedisError):
            await index.invalidate("acme")
        with pytest.raises(RedisError):
            await index.invalidate_key("user:7")
        if reply != b"+OK\r\n":  # which may be a value
            with pytest.raises(RedisError):
                await index.read("user:7")
