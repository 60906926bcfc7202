"""One bounded client per process, and typed values in namespaces that do not mix."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from signal import SIGCONT, SIGSTOP
from uuid import UUID, uuid4

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from fastapi import FastAPI, WebSocket
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.exceptions import MaxConnectionsError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from starlette.types import Message, Scope

from catalogue.plugin import Proof
from snippets.caching.codec import Codec, CodecError
from snippets.caching.redis_client import (
    BATCH,
    LONGEST_SECONDS,
    MISS,
    Namespace,
    create_redis,
    namespaced,
)
from snippets.caching.redis_client_naive import JsonCache
from snippets.caching.redis_client_wiring import RedisDep, create_app
from tests.support.counters import count_round_trips
from tests.support.redis_faults import faulty_server, tcp_server
from tests.support.redis_servers import (
    PrivateRedisServer,
    RedisServer,
    free_port,
    hasty,
)

# A busy machine is no reason to fail.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PATIENCE = 60
"""Seconds after which something hangs."""


class User(BaseModel):
    """Somebody with a telephone."""

    id: int
    credit: Decimal = Decimal(0)


@pytest.fixture
def app_name(redis_server: RedisServer) -> str:
    """The name of an application that no other test has."""
    return redis_server.namespace


@pytest.fixture
def users(redis: Redis, app_name: str) -> Namespace[User]:
    """The users of the application's first version."""
    return namespaced(redis, app_name, version=1, codec=Codec(User))


async def test_200_calls_at_once_share_ten_connections(redis_url: str) -> None:
    async with create_redis(redis_url, pool_size=10, timeout=PATIENCE) as redis:
        replies = await asyncio.gather(*(redis.echo(str(n)) for n in range(200)))

    assert [int(reply) for reply in replies] == list(range(200))


async def test_50_first_uses_at_once_open_at_most_the_pool_size(
    redis_url: str,
) -> None:
    async with create_redis(redis_url, pool_size=10, timeout=PATIENCE) as redis:
        ids = await asyncio.gather(*(redis.client_id() for _ in range(50)))

    assert 1 <= len(set(ids)) <= 10


async def test_a_client_opens_nothing_before_its_first_command() -> None:
    async with faulty_server() as server:
        async with create_redis(server.url):
            await asyncio.sleep(0)

        assert server.connections == 0


async def test_every_wait_has_an_end() -> None:
    async with faulty_server() as silent:
        redis = create_redis(silent.url, pool_size=1, timeout=0.1)
        async with redis, asyncio.timeout(PATIENCE):
            calls = (redis.get("user:7") for _ in range(2))
            errors = await asyncio.gather(*calls, return_exceptions=True)

        # One waited for an answer, the other for the one connection; none tried again.
        assert all(isinstance(error, RedisError) for error in errors)
        assert silent.connections <= 2


async def test_a_call_waits_for_a_connection_no_longer_than_for_an_answer(
    redis_url: str,
) -> None:
    async with create_redis(redis_url, pool_size=1, timeout=0.1) as redis:
        pool = redis.connection_pool
        assert isinstance(pool, BlockingConnectionPool)
        take: Callable[[], Connection] = pool.get_available_connection
        taken = take()
        with count_round_trips() as trips, pytest.raises(RedisError, match="No conn"):
            await redis.get("user:7")
        await pool.release(taken)

    assert trips.total == 0
    assert pool.timeout == 0.1


async def test_every_connection_has_the_limit_to_connect_and_for_each_answer() -> None:
    async with create_redis("redis://127.0.0.1:1/0", timeout=0.1) as redis:
        make: Callable[[], Connection] = redis.connection_pool.make_connection
        connection = make()

    assert connection.socket_connect_timeout == connection.socket_timeout == 0.1


async def test_a_command_is_not_sent_twice(redis_url: str) -> None:
    async with create_redis(redis_url, pool_size=1, timeout=PATIENCE) as redis:
        await redis.ping()
        key = f"test-{uuid4().hex}"
        async with hasty(redis):
            with count_round_trips() as trips, pytest.raises(RedisTimeoutError):
                await redis.blpop([key], timeout=PATIENCE)
        await redis.rpush(key, "for what still waits in an embedded server")
        await redis.pexpire(key, 60_000)

    assert trips.commands == ["BLPOP"]


@pytest.mark.backends("redis")
async def test_after_an_outage_the_same_client_works_again(
    redis_backend: str, private_redis: PrivateRedisServer
) -> None:
    assert redis_backend == "redis"
    async with create_redis(private_redis.url) as redis:
        await asyncio.gather(*(redis.ping() for _ in range(5)))
        with private_redis.down(), pytest.raises(RedisError):
            await redis.ping()

        # Also on the four connections that broke without anybody using them.
        assert all(await asyncio.gather(*(redis.ping() for _ in range(20))))


async def test_a_client_that_could_not_connect_can_later() -> None:
    port = free_port()
    async with create_redis(f"redis://127.0.0.1:{port}/0", timeout=PATIENCE) as redis:
        with pytest.raises(RedisError):
            await redis.ping()
        with tcp_server(port):
            assert await redis.ping()
            await redis.aclose()


async def test_closing_leaves_nothing_to_be_collected(
    redis_url: str, recwarn: pytest.WarningsRecorder
) -> None:
    async with create_redis(redis_url) as redis:
        await redis.ping()
    del redis
    gc.collect()

    assert not recwarn.list


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application, and yield a client of it."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_the_application_injects_a_client_that_works(redis_url: str) -> None:
    path = f"/users/{uuid4().int}/extensions"
    async with running(create_app(redis_url)) as http:
        assert (await http.get(path)).status_code == 404
        assert (await http.put(path, json=["1001"])).status_code == 204
        response = await http.get(path)

        assert (response.status_code, response.json()) == (200, ["1001"])
        assert (await http.delete(path)).status_code == 204
        assert (await http.get(path)).status_code == 404


async def test_a_websocket_is_given_the_client_too(redis_url: str) -> None:
    app = create_app(redis_url)
    sent: list[Message] = []

    @app.websocket("/ping")
    async def ping(websocket: WebSocket, redis: RedisDep) -> None:
        await websocket.accept()
        await websocket.send_json(await redis.ping())

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "websocket", "path": "/ping", "headers": []}
    async with app.router.lifespan_context(app):
        await app({**scope, "query_string": b"", "subprotocols": []}, receive, send)

    assert [message.get("text") for message in sent] == [None, "true"]


async def test_the_application_starts_without_redis() -> None:
    async with running(create_app(f"redis://127.0.0.1:{free_port()}/0")) as http:
        assert (await http.get("/users/7/extensions")).status_code == 500


async def test_a_value_comes_back_equal_and_of_the_same_type(
    users: Namespace[User],
) -> None:
    user = User(id=7, credit=Decimal("12.50"))
    await users.set("user", 7, value=user, ttl=300)

    assert await users.get("user", 7) == user


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (str, "123"),
        (str, ""),
        (str, "null"),
        (str, "true"),
        (int, 0),
        (bool, False),
        (type(None), None),
        (list[str], []),
        (dict[int, str], {1001: "Ada"}),
        (bytes, b"\xff"),
        (Decimal, Decimal("12.50")),
        (datetime, datetime(2026, 11, 22, tzinfo=UTC)),
        (UUID, UUID(int=7)),
        (tuple[int, ...], (1, 2)),
    ],
)
async def test_plain_values_keep_their_types(
    redis: Redis, app_name: str, kind: type[object], value: object
) -> None:
    values = namespaced(redis, app_name, version=1, codec=Codec(kind))
    await values.set("value", value=value, ttl=300)

    back = await values.get("value")

    assert (type(back), back) == (type(value), value)


async def test_what_would_come_back_changed_is_refused(
    redis: Redis, app_name: str
) -> None:
    values = namespaced(redis, app_name, version=1, codec=Codec(object))

    with pytest.raises(CodecError):
        await values.set("legs", value=("1001", "1002"), ttl=300)

    assert await values.get("legs") is MISS


async def test_what_is_not_such_a_value_is_an_error(
    users: Namespace[User], redis: Redis
) -> None:
    await redis.set(users.key("user", 7), b"nonsense")

    with pytest.raises(CodecError):
        await users.get("user", 7)


async def test_a_stored_none_is_not_a_miss(redis: Redis, app_name: str) -> None:
    codec = Codec[str | None](str | None)
    greetings = namespaced(redis, app_name, version=1, codec=codec)
    await greetings.set("user", 7, value=None, ttl=300)

    assert await greetings.get("user", 7) is None
    assert await greetings.get("user", 8) is MISS


async def test_an_entry_ends_after_its_time_to_live_or_never(
    users: Namespace[User], redis: Redis
) -> None:
    user = User(id=7)
    await users.set("user", 7, value=user, ttl=300.5)
    assert 0 < await redis.pttl(users.key("user", 7)) <= 300_500
    await users.set("user", 7, value=user, ttl=LONGEST_SECONDS)
    assert await redis.pttl(users.key("user", 7)) > 300_500
    await users.set("user", 7, value=user, ttl=None)
    assert await redis.pttl(users.key("user", 7)) == -1


@pytest.mark.parametrize(
    "ttl", [0, -1, 0.0009, 3.2e9, 1e16, float("nan"), float("inf")]
)
async def test_a_time_to_live_that_is_none_is_refused(
    users: Namespace[User], ttl: float
) -> None:
    with pytest.raises(ValueError, match="None is for ever"):
        await users.set("user", 7, value=User(id=7), ttl=ttl)

    assert await users.get("user", 7) is MISS


async def test_deleting_says_whether_there_was_a_value(users: Namespace[User]) -> None:
    await users.set("user", 7, value=User(id=7), ttl=300)

    assert await users.delete("user", 7)
    assert not await users.delete("user", 7)
    assert await users.get("user", 7) is MISS


async def test_each_command_is_one_round_trip(
    users: Namespace[User], redis: Redis, proof: Proof
) -> None:
    await redis.ping()
    with count_round_trips() as trips:
        await users.set("user", 7, value=User(id=7), ttl=300)
        assert trips.total == 1
        await users.get("user", 7)
        assert trips.total == 2
        await users.delete("user", 7)
        assert trips.total == 3
    proof.cost("get", round_trips=1)
    proof.cost("set", round_trips=1)
    proof.cost("delete", round_trips=1)


async def test_flushing_removes_this_namespace_and_no_other(
    redis: Redis, app_name: str
) -> None:
    codec = Codec(str)
    mine = namespaced(redis, app_name, version=1, codec=codec)
    others = [
        namespaced(redis, app_name, version=10, codec=codec),
        namespaced(redis, f"{app_name}-2", version=1, codec=codec),
        namespaced(redis, f"{app_name}_1", version=1, codec=codec),
    ]
    for space in (mine, *others):
        await space.set("user", "*", value="Ada", ttl=300)
        await space.set("user", "1:2", value="Ada", ttl=300)

    assert await mine.flush() == 2
    assert await mine.get("user", "*") is MISS
    assert [await other.get("user", "1:2") for other in others] == ["Ada"] * 3
    assert await mine.flush() == 0


async def test_flushing_goes_in_batches(redis: Redis, app_name: str) -> None:
    space = namespaced(redis, app_name, version=1, codec=Codec(int))
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(3 * BATCH):
            pipeline.set(space.key("user", number), b"[0]", px=300_000)
        await pipeline.execute()

    with count_round_trips() as trips:
        assert await space.flush() == 3 * BATCH

    assert set(trips.commands) == {"SCAN", "UNLINK"}
    assert trips.commands.count("UNLINK") >= 3


async def test_flushing_goes_on_where_a_batch_has_only_keys_of_others(
    redis: Redis, app_name: str
) -> None:
    space = namespaced(redis, app_name, version=1, codec=Codec(int))
    others = {f"{app_name}+{number}": "of another" for number in range(10 * BATCH)}
    await redis.mset(others)
    await space.set("user", 7, value=7, ttl=300)

    assert await space.flush() == 1
    assert await redis.exists(*others) == len(others)


@pytest.mark.parametrize(
    "name", ["", "tele:phony", "tele*", "téléphonie", "a b", "a\n"]
)
def test_a_name_that_could_be_taken_for_another_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        namespaced(Redis(), name, version=1, codec=Codec(str))


def test_a_negative_version_is_refused() -> None:
    with pytest.raises(ValueError, match="is no name"):
        namespaced(Redis(), "telephony", version=-1, codec=Codec(str))


parts = st.lists(st.text() | st.sampled_from(["a", ":", "a:b", "*", "%3A"]), min_size=1)


@unhurried
@given(first=parts, second=parts)
@example(first=["a:b"], second=["a", "b"])
@example(first=[":"], second=["%3A"])
@example(first=["a"], second=["a", ""])
def test_two_names_share_a_key_only_if_they_are_the_same(
    first: list[str], second: list[str]
) -> None:
    space = namespaced(Redis(), "telephony", version=1, codec=Codec(str))

    assert (space.key(*first) == space.key(*second)) == (first == second)


@unhurried
@given(parts)
def test_a_key_contains_nothing_that_redis_would_take_for_a_pattern(
    names: list[str],
) -> None:
    key = namespaced(Redis(), "telephony", version=1, codec=Codec(str)).key(*names)

    assert key.startswith("telephony:1:")
    assert key.isascii()
    assert key.isprintable()
    assert not set("*?[]\\ ").intersection(key)


async def test_the_naive_cache_changes_values(
    redis: Redis, app_name: str, proof: Proof
) -> None:
    naive = JsonCache(redis)
    await naive.set(app_name, "123")
    assert await naive.get(app_name) == 123
    proof.breaks('"123" is stored', "the number 123 comes back")

    await naive.set(app_name, None)
    assert await naive.get(app_name) is None
    assert await naive.get(f"{app_name}:never stored") is None
    proof.breaks("None is stored", "it cannot be told from a miss")


@pytest.mark.backends("redis")
async def test_the_default_pool_refuses_the_101st_call_at_once(
    redis_backend: str, private_redis: PrivateRedisServer, proof: Proof
) -> None:
    assert redis_backend == "redis"
    redis = Redis.from_url(private_redis.url)
    naive = JsonCache(redis)
    assert private_redis.process is not None
    private_redis.process.send_signal(SIGSTOP)  # holds every call where it is
    try:
        calls = [asyncio.create_task(naive.get("user:7")) for _ in range(101)]
        async with asyncio.timeout(PATIENCE):
            done, waiting = await asyncio.wait(
                calls, return_when=asyncio.FIRST_COMPLETED
            )
    finally:
        private_redis.process.send_signal(SIGCONT)
    await asyncio.gather(*waiting)
    await redis.aclose()

    assert [type(call.exception()) for call in done] == [MaxConnectionsError]
    proof.breaks(
        "101 calls at once on the default pool", "one raises MaxConnectionsError"
    )


async def test_a_pool_that_blocks_serves_the_101st_call(redis_url: str) -> None:
    async with create_redis(redis_url, pool_size=100, timeout=PATIENCE) as redis:
        replies = await asyncio.gather(*(redis.get("user:7") for _ in range(300)))

    assert len(replies) == 300


async def test_commands_newer_than_redis_7_0_are_known_to_fakeredis(
    redis: Redis, redis_backend: str, app_name: str, proof: Proof
) -> None:
    await redis.hset(app_name, "user", "Ada")
    try:
        await redis.hexpire(app_name, 60, "user")
        outcome = "accepted"
    except ResponseError as error:
        outcome = str(error).partition(",")[0]

    is_known = redis_backend == "fakeredis" or await version_of(redis) >= (7, 4)
    assert outcome == ("accepted" if is_known else "unknown command 'HEXPIRE'")
    proof.differs("HEXPIRE, which Redis knows since 7.4", outcome)


async def version_of(redis: Redis) -> tuple[int, ...]:
    """Return the version of a server, without its last part."""
    version = (await redis.info("server"))["redis_version"]
    return tuple(int(part) for part in version.split(".")[:2])


async def test_fakeredis_neither_describes_a_key_nor_tells_of_its_changes(
    redis: Redis, redis_backend: str, app_name: str, proof: Proof
) -> None:
    await redis.set(app_name, "1001")
    commands = ("OBJECT", "ENCODING", app_name), ("CLIENT", "TRACKING", "OFF")
    execute: Callable[..., Awaitable[object]] = redis.execute_command

    for name, *rest in commands:
        title = f"{name} {rest[0]}"
        if redis_backend == "fakeredis":
            with pytest.raises(ResponseError, match="unknown command"):
                await execute(name, *rest)
            proof.differs(title, "an unknown command")
        else:
            assert await execute(name, *rest) in {b"int", b"OK"}
            proof.differs(title, "answered")


async def test_two_fake_clients_share_data_only_through_one_server(
    redis_backend: str, redis_server: RedisServer, app_name: str, proof: Proof
) -> None:
    await redis_server.client().set(app_name, "Ada")

    assert await redis_server.client().get(app_name) == b"Ada"
    if redis_backend == "fakeredis":
        assert await FakeAsyncRedis().get(app_name) is None
        proof.differs(
            "Two clients made one by one", "share nothing without a FakeServer"
        )
    else:
        proof.differs("Two clients made one by one", "share the server's data")


async def test_fakeredis_does_not_tell_about_itself(
    redis: Redis, redis_backend: str, proof: Proof
) -> None:
    if redis_backend == "fakeredis":
        with pytest.raises(ResponseError, match="unknown command"):
            await redis.info()
        proof.differs("INFO", "an unknown command")
    else:
        assert "redis_version" in await redis.info()
        proof.differs("INFO", "answered")
