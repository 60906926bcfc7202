"""What matches is deleted, what does not is not, and others are served in between."""

import asyncio
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import RedisError

from catalogue.plugin import Proof
from snippets.caching import key_patterns_naive
from snippets.caching.key_patterns import delete_matching, literal
from tests.support.counters import count_round_trips
from tests.support.redis_servers import PrivateRedisServer, RedisServer

MANY = 100_000
MEGABYTE = 2**20
HOSTILE = [
    "*",
    "?",
    "[a-z]",
    "[^a]",
    "]",
    "\\",
    "\\*",
    "a\nb",
    "\x00",
    "é🙂",
    "^a",
    "a-b",
]


@pytest.fixture
def prefix(redis_server: RedisServer) -> str:
    """The beginning of this test's keys."""
    return f"{redis_server.namespace}:"


async def put(redis: Redis, prefix: str, *names: str) -> None:
    """Set a key for each name."""
    await redis.mset({prefix + name: "x" for name in names})


async def left(redis: Redis, prefix: str) -> set[str]:
    """Return the names that are still set."""
    keys = [key async for key in redis.scan_iter(literal(prefix) + "*", count=1000)]
    return {key.decode().removeprefix(prefix) for key in keys}


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("*", {"user:1", "user:10", "user:2", "team:1"}),
        ("user:*", {"user:1", "user:10", "user:2"}),
        ("user:1", {"user:1"}),
        ("user:1*", {"user:1", "user:10"}),
        ("user:?", {"user:1", "user:2"}),
        ("user:[2-9]", {"user:2"}),
        ("user", set()),
        ("ser:1", set()),
        ("", set()),
    ],
)
async def test_the_whole_key_must_match(
    redis: Redis, prefix: str, pattern: str, gone: set[str]
) -> None:
    names = {"user:1", "user:10", "user:2", "team:1"}
    await put(redis, prefix, *names)

    assert await delete_matching(redis, prefix, pattern) == len(gone)
    assert await left(redis, prefix) == names - gone


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_name_stands_for_itself(
    redis: Redis, prefix: str, name: str
) -> None:
    names = {name, f"{name}0", f"0{name}", "a", "b", "0", "ab", "*0"} - {""}
    await put(redis, prefix, *(f"user:{each}:cache" for each in names))

    assert await delete_matching(redis, prefix, f"user:{literal(name)}:*") == 1
    assert await left(redis, prefix) == {
        f"user:{each}:cache" for each in names - {name}
    }


@pytest.mark.parametrize("name", HOSTILE)
async def test_nothing_outside_the_prefix_is_touched(
    redis: Redis, redis_server: RedisServer, name: str
) -> None:
    root = f"{redis_server.namespace}:"
    names = {f"{name}:1", "x:1", "a:1", "other:1"}
    await put(redis, root, *names)

    assert await delete_matching(redis, f"{root}{name}:", "*") == 1
    assert await left(redis, root) == names - {f"{name}:1"}


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.text(st.sampled_from("ab*?[]\\^-!\n{}"), max_size=6),
    others=st.sets(st.text(st.sampled_from("ab*?[]\\^-!\n{}"), max_size=6), max_size=9),
)
async def test_a_literal_matches_its_text_and_nothing_else(
    redis: Redis, prefix: str, name: str, others: set[str]
) -> None:
    await delete_matching(redis, prefix, "*")
    await put(redis, prefix, name, *others)

    assert await delete_matching(redis, prefix, literal(name)) == 1
    assert await left(redis, prefix) == others - {name}


@pytest.mark.parametrize("keys", [0, 1, 499, 500, 501, 1000, 1234])
async def test_every_key_is_counted_once(
    redis: Redis, redis_backend: str, prefix: str, keys: int
) -> None:
    if keys:
        await put(redis, prefix, *map(str, range(keys)))

    with count_round_trips() as trips:
        assert await delete_matching(redis, prefix, "*") == keys
    batches = -(-keys // 500)
    assert trips.commands.count("UNLINK") >= batches  # SCAN may give a key twice
    if redis_backend == "fakeredis":
        assert trips.commands.count("UNLINK") == batches
    assert set(trips.commands) <= {"SCAN", "UNLINK"}


async def test_a_client_that_decodes_responses_will_do(
    redis_server: RedisServer, prefix: str
) -> None:
    decoding = redis_server.client(decode_responses=True)
    await put(decoding, prefix, "é", "user:1")

    assert await delete_matching(decoding, prefix, "*") == 2


@pytest.mark.backends("fakeredis")
async def test_what_a_thousand_keys_cost(
    redis: Redis, prefix: str, proof: Proof
) -> None:
    await put(redis, prefix, *map(str, range(1000)))

    with count_round_trips() as trips:
        await delete_matching(redis, prefix, "*")

    assert (trips.commands.count("SCAN"), trips.commands.count("UNLINK")) == (2, 2)
    proof.cost("delete 1,000 keys of 1,000", round_trips=4)


@pytest.mark.backends("redis")
async def test_of_100_000_keys_a_batch_is_held_and_others_are_served_in_between(
    redis_backend: str, private_redis: PrivateRedisServer
) -> None:
    assert redis_backend
    redis, other = private_redis.client(), private_redis.client()
    fill = "for i = 1, ARGV[1] do redis.call('SET', 'calls:' .. i, '') end"
    await redis.eval(fill, 0, MANY)
    await redis.set("users:1", "Ada")
    answers = 0
    is_done = asyncio.Event()

    async def ask() -> None:
        nonlocal answers
        while not is_done.is_set():
            assert await other.get("users:1") == b"Ada"
            answers += 1

    asking = asyncio.create_task(ask())
    tracemalloc.start()
    assert await delete_matching(redis, "calls:", "*") == MANY
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    is_done.set()
    await asking

    assert peak < MEGABYTE  # a list of all the keys takes six
    stats = await redis.info("commandstats")
    batches = stats["cmdstat_unlink"]["calls"]
    assert MANY // 500 <= batches < MANY // 400  # SCAN gives a few keys twice
    assert answers > batches / 2
    assert not {"cmdstat_keys", "cmdstat_del"} & stats.keys()


@pytest.mark.backends("redis")
async def test_an_outage_is_raised(
    redis_backend: str, private_redis: PrivateRedisServer
) -> None:
    assert redis_backend
    redis = private_redis.client()
    with private_redis.down(), pytest.raises(RedisError):
        await delete_matching(redis, "calls:", "*")


async def test_a_cancelled_deletion_can_be_repeated(redis: Redis, prefix: str) -> None:
    await put(redis, prefix, *map(str, range(1200)))
    with count_round_trips() as trips:
        deletion = asyncio.create_task(delete_matching(redis, prefix, "*"))
        while "UNLINK" not in trips.commands and not deletion.done():
            await redis.ping()
        deletion.cancel()
        await asyncio.wait([deletion])

    remaining = len(await left(redis, prefix))
    assert remaining < 1200
    assert await delete_matching(redis, prefix, "*") == remaining


@pytest.fixture
async def empty_redis(redis: Redis) -> Redis:
    """An embedded server that has no other keys."""
    assert await redis.dbsize() == 0
    return redis


@pytest.mark.backends("fakeredis")
async def test_a_naive_name_deletes_its_neighbours(
    empty_redis: Redis, proof: Proof
) -> None:
    await put(empty_redis, "user:", "1:greeting", "10:greeting", "7:greeting")

    assert await key_patterns_naive.forget_user(empty_redis, "1") == 2
    proof.breaks("Everything about user 1 is deleted", "user 10 goes too")


@pytest.mark.backends("fakeredis")
async def test_a_naive_name_of_one_star_deletes_all_users(
    empty_redis: Redis, proof: Proof
) -> None:
    await put(empty_redis, "user:", "ada", "grace", "alan")

    assert await key_patterns_naive.forget_user(empty_redis, "*") == 3
    proof.breaks("Everything about a user who is called * is deleted", "all users go")


async def test_a_naive_deletion_lists_all_keys_in_one_command(
    redis: Redis, prefix: str, proof: Proof
) -> None:
    await put(redis, prefix, *map(str, range(1200)))

    with count_round_trips() as trips:
        assert await key_patterns_naive.delete_matching(redis, f"{prefix}*") == 1200
    assert trips.commands == ["KEYS", "DEL"]
    proof.breaks(
        "1,200 keys are deleted",
        "one KEYS and one DEL take them all, and whoever else asks waits for both",
    )
