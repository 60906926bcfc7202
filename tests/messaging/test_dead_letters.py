"""What fails is tried again later, and at last kept once with its history."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pytest
from aio_pika import Message
from faststream.exceptions import NackMessage, RejectMessage
from faststream.message.message import AckStatus
from faststream.rabbit import ExchangeType, RabbitExchange, RabbitMessage, RabbitQueue
from hypothesis import given
from hypothesis import strategies as st

from catalogue.plugin import Proof
from snippets.messaging.dead_letters import (
    RetryPolicy,
    Topology,
    declare_topology,
    where,
)
from snippets.messaging.dead_letters_naive import RetryingHandler
from snippets.messaging.rabbit_broker import Outgoing, make_broker, publish_confirmed
from snippets.messaging.replay import replay
from tests.support.counters import count_messages
from tests.support.dead_letters import DELAYS, Mailer
from tests.support.rabbitmq import AnyBroker, RealBrokerServer, collect

POLICY = RetryPolicy(retry_on=(ConnectionError,), delays=DELAYS)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
RABBITMQ = pytest.mark.backends("rabbitmq")


def refuse(_: RabbitMessage) -> None:
    """Fail as a mail server that is away does."""
    raise ConnectionError("smtp://ada:canary-4f1c@mail refused")


class Fault:
    """Fails with an error of this type, time after time."""

    def __init__(self, error: type[BaseException]) -> None:
        """Keep it."""
        self.error = error

    def __call__(self, _: RabbitMessage) -> None:
        """Fail."""
        raise self.error


def stumble(_: RabbitMessage) -> None:
    """Fail as a program does that is wrong."""
    raise ValueError("canary-4f1c")


def accept(_: RabbitMessage) -> None:
    """Succeed."""


@RABBITMQ
async def test_after_all_attempts_one_copy_is_kept_with_its_history(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    mailer = Mailer(rabbitmq, refuse, POLICY)
    dead = mailer.topology.dead().name
    async with mailer.running():
        with count_messages() as seen:
            await mailer.leave(body=b'{"seconds":3}')
            kept = await rabbitmq.take(dead)
    assert mailer.attempts() == 3
    assert await rabbitmq.depth(dead) == 0
    assert kept.body == b'{"seconds":3}'
    assert (kept.message_id, kept.correlation_id) == ("m1", "request-1")
    assert (kept.content_type, kept.type) == ("application/json", "voicemail.left")
    assert kept.routing_key == "voicemail.left.acme"
    error = kept.headers.pop("x-failed-first-error")
    assert str(error).startswith("ConnectionError in refuse:")
    assert kept.headers == {
        "tenant": "acme",
        "x-failed-exchange": mailer.events.name,
        "x-failed-attempts": 3,
        "x-failed-reason": "attempts",
        "x-failed-last-error": error,
    }
    assert [key for _, key in seen.published] == ["voicemail.left.acme"] * 4
    assert seen.total == seen.confirmed == 4
    proof.cost("failure of all 3 attempts", deliveries=3, retry_hops=2, dead_letters=1)


async def test_a_success_costs_no_further_message(
    broker_server: AnyBroker, proof: Proof
) -> None:
    mailer = Mailer(broker_server, accept, POLICY)
    async with mailer.running():
        with count_messages() as seen:
            await mailer.leave()
            await mailer.arrived.get()
    assert seen.total == 1
    proof.cost("success", deliveries=1, further_messages=0)


@RABBITMQ
async def test_each_attempt_has_the_message_as_it_was_published(
    rabbitmq: RealBrokerServer,
) -> None:
    fault = Fault(ConnectionError)
    mailer = Mailer(rabbitmq, fault, POLICY)
    headers: dict[str, Any] = {"tenant": "acme", "seen": [NOON, 1.5, None, {"a": 1}]}
    said: dict[str, Any] = {
        "body": b'{"seconds":3}',
        "message_id": "m1",
        "routing_key": "voicemail.left.acme",
        "correlation_id": "request-1",
        "content_type": "application/json",
        "content_encoding": "identity",
        "type": "voicemail.left",
        "reply_to": "answers",
        "priority": 3,
        "timestamp": NOON,
    }
    message = Outgoing(exchange=mailer.events, headers=headers, **said)
    async with mailer.running() as broker:
        await publish_confirmed(broker, message)
        await rabbitmq.wait_for_depth(mailer.topology.dead().name, 1)
        await replay(broker, mailer.topology, limit=1)
        kept = await rabbitmq.take(mailer.topology.dead().name)
    raw = [one.raw_message for one in mailer.deliveries]
    assert len(raw) == 6
    for one in (*raw, kept):
        assert {name: getattr(one, name) for name in said} == said
        assert one.expiration is None
        assert {name: one.headers[name] for name in headers} == headers


@RABBITMQ
async def test_a_message_of_another_user_without_an_id_of_a_request_keeps_one_id(
    rabbitmq: RealBrokerServer,
) -> None:
    """What a copy cannot have is replaced by the same for each of them."""
    mailer = Mailer(rabbitmq, refuse, POLICY)
    message = Message(b"{}", message_id="m1", user_id="guest", app_id="pbx")
    async with mailer.running():
        async with rabbitmq.channel() as channel:
            exchange = await channel.get_exchange(mailer.events.name)
            await exchange.publish(message, "voicemail.left.acme")
        kept = await rabbitmq.take(mailer.topology.dead().name)
    raw = [*(one.raw_message for one in mailer.deliveries), kept]
    assert [one.correlation_id for one in raw] == [None, "m1", "m1", "m1"]
    assert [one.user_id for one in raw] == ["guest", None, None, None]
    assert [one.app_id for one in raw] == [
        "pbx",
        *[f"faststream-{version('faststream')}"] * 3,
    ]
    assert [one.content_type for one in raw] == [None] * 4


@RABBITMQ
async def test_a_message_that_succeeds_at_last_is_nowhere_afterwards(
    rabbitmq: RealBrokerServer,
) -> None:
    def fail(_: RabbitMessage) -> None:
        if mailer.attempts() < 3:
            raise ConnectionError

    mailer = Mailer(rabbitmq, fail, POLICY)
    async with mailer.running():
        await mailer.leave()
        for _ in range(3):
            await mailer.arrived.get()
    for name in ("mailer", "mailer.dead", "mailer.retry.1", "mailer.retry.2"):
        assert await rabbitmq.depth(rabbitmq.name(name)) == 0


async def test_what_is_not_listed_is_kept_at_once(
    broker_server: AnyBroker, proof: Proof
) -> None:
    mailer = Mailer(broker_server, stumble, POLICY)
    dead, dead_exchange = mailer.topology.dead(), mailer.topology.exchange("dead")
    title = "The dead-letter queue"
    if isinstance(broker_server, RealBrokerServer):
        async with mailer.running():
            await mailer.leave()
            kept = await broker_server.take(dead.name)
        headers = kept.headers
        proof.differs(title, "It is there without a subscriber")
    else:
        got = collect(mailer.broker, dead, dead_exchange)
        async with mailer.running():
            await mailer.leave()
        headers = got.get_nowait().headers
        proof.differs(title, "A test must subscribe to it to see what is in it")
    assert mailer.attempts() == 1
    assert headers["x-failed-attempts"] == 1
    assert headers["x-failed-reason"] == "error"
    assert "canary" not in str(headers)


async def test_a_message_that_waits_for_its_next_attempt(
    broker_server: AnyBroker, proof: Proof
) -> None:
    mailer = Mailer(broker_server, refuse, POLICY)
    title = "A message whose retry queue has a time to live"
    if isinstance(broker_server, RealBrokerServer):
        async with mailer.running():
            await mailer.leave()
            await broker_server.take(mailer.topology.dead().name)
        assert mailer.attempts() == 3
        proof.differs(title, "It comes back when its time is over")
    else:
        retry = mailer.topology.exchange("retry.1")
        got = collect(mailer.broker, mailer.topology.retry(1), retry)
        async with mailer.running():
            await mailer.leave()
        waiting = got.get_nowait()
        assert waiting.headers["x-failed-attempts"] == 1
        assert mailer.attempts() == 1
        proof.differs(title, "It never comes back: there are neither times nor queues")


async def test_a_copy_that_is_not_confirmed_leaves_the_message_where_it_is(
    broker_server: AnyBroker,
) -> None:
    def fail(_: RabbitMessage) -> None:
        if mailer.attempts() == 1:
            raise ConnectionError

    mailer = Mailer(broker_server, fail, POLICY)
    async with mailer.running():
        if isinstance(broker_server, RealBrokerServer):
            async with broker_server.channel() as channel:
                for queue in (mailer.topology.retry(1), mailer.topology.dead()):
                    await channel.queue_delete(queue.name)
            await mailer.leave()
            for _ in range(2):
                await mailer.arrived.get()
            again = mailer.deliveries[1]
            assert again.raw_message.redelivered
            assert again.headers["x-delivery-count"] == 1
        else:
            await mailer.leave()
    assert mailer.deliveries[0].committed is AckStatus.NACKED


@RABBITMQ
async def test_a_message_that_cannot_be_put_to_wait_is_kept_with_its_history(
    rabbitmq: RealBrokerServer,
) -> None:
    mailer = Mailer(rabbitmq, refuse, POLICY)
    async with mailer.running():
        async with rabbitmq.channel() as channel:
            await channel.queue_delete(mailer.topology.retry(2).name)
        await mailer.leave()
        kept = await rabbitmq.take(mailer.topology.dead().name)
    assert mailer.attempts() == 2
    assert kept.headers["x-failed-attempts"] == 2
    assert kept.headers["x-failed-reason"] == "unconfirmed"
    assert str(kept.headers["x-failed-last-error"]).startswith("ConnectionError")
    assert kept.headers["x-failed-exchange"] == mailer.events.name
    assert kept.expiration is None


ANYTHING = RetryPolicy(retry_on=(Exception,), delays=DELAYS)


@RABBITMQ
async def test_a_body_that_cannot_be_decoded_is_kept_and_is_no_loop(
    rabbitmq: RealBrokerServer,
) -> None:
    mailer = Mailer(rabbitmq, accept, ANYTHING)
    async with mailer.running():
        await mailer.leave(body=b"\xff{canary-4f1c")
        kept = await rabbitmq.take(mailer.topology.dead().name)
        await mailer.leave("m2")
        assert await mailer.arrived.get() == "m2"
    assert mailer.attempts() == 0
    assert kept.body == b"\xff{canary-4f1c"
    assert kept.headers["x-failed-attempts"] == 1
    assert kept.headers["x-failed-exchange"] == mailer.events.name
    assert "canary" not in str(kept.headers)


@pytest.mark.backends("memory")
async def test_a_body_that_cannot_be_decoded_is_kept_in_memory_too(
    broker_server: AnyBroker,
) -> None:
    mailer = Mailer(broker_server, accept, POLICY)
    dead = mailer.topology.exchange("dead")
    got = collect(mailer.broker, mailer.topology.dead(), dead)
    async with mailer.running():
        await mailer.leave(body=b"{")
    assert got.get_nowait().body == b"{"
    assert mailer.attempts() == 0


@RABBITMQ
async def test_a_rejected_message_is_kept_at_once_with_what_caused_it(
    rabbitmq: RealBrokerServer,
) -> None:
    def reject(message: RabbitMessage) -> None:
        try:
            refuse(message)
        except ConnectionError as error:
            raise RejectMessage from error

    mailer = Mailer(rabbitmq, reject, ANYTHING)
    async with mailer.running():
        await mailer.leave()
        kept = await rabbitmq.take(mailer.topology.dead().name)
    assert mailer.attempts() == 1
    error = str(kept.headers["x-failed-last-error"])
    assert error.startswith("RejectMessage < ConnectionError in reject:")


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), BaseExceptionGroup("", [asyncio.CancelledError()])],
)
async def test_a_handler_that_is_cancelled_from_within_has_failed_like_any_other(
    broker_server: AnyBroker, error: BaseException
) -> None:
    """Nobody waits for the end of the connection, which would give it back."""

    def cancelled(message: RabbitMessage) -> None:
        if message.message_id == "m1":
            raise error

    mailer = Mailer(broker_server, cancelled, POLICY)
    got = collect(
        mailer.broker, mailer.topology.dead(), mailer.topology.exchange("dead")
    )
    async with mailer.running():
        for message_id in ("m1", "m2"):
            await mailer.leave(message_id)
        kept = await got.get()
    assert [mailer.attempts(one) for one in ("m1", "m2")] == [1, 1]
    text = str(kept.headers["x-failed-last-error"])
    assert text.startswith(f"HandlerCancelledError < {type(error).__name__} in ")


FORGED: list[dict[str, Any]] = [
    {"x-failed-attempts": -1000},
    {"x-failed-attempts": "many", "x-failed-exchange": "elsewhere"},
    {"x-failed-first-error": "canary", "x-failed-last-error": "canary"},
    {"x-delivery-count": -1000},
    {"x-delivery-count": 1000},
    {"x-retry-count": 0, "x-attempt": 0},
]


@RABBITMQ
async def test_no_header_of_a_publisher_changes_the_number_of_attempts(
    rabbitmq: RealBrokerServer,
) -> None:
    mailer = Mailer(rabbitmq, refuse, POLICY)
    deaths = [
        {"queue": f"mailer{end}", "reason": reason, "count": count, "exchange": "x"}
        for end in ("", ".retry.1", ".retry.2")
        for reason in ("expired", "rejected", "delivery_limit")
        for count in (-1000, 1000)
    ]
    for death in deaths:
        death["queue"] = f"{rabbitmq.namespace}.{death['queue']}"
    forged = [*FORGED, {"x-death": deaths}, {"x-death": "rubbish"}]
    async with mailer.running():
        for number, headers in enumerate(forged):
            await publish_confirmed(
                mailer.broker,
                Outgoing(
                    body=b"{}",
                    message_id=str(number),
                    exchange=mailer.events,
                    routing_key="voicemail.left.acme",
                    headers=headers,
                ),
            )
        dead = mailer.topology.dead().name
        for _ in forged:
            kept = await rabbitmq.take(dead)
            assert kept.headers["x-failed-attempts"] == 3
            assert kept.headers["x-failed-exchange"] == mailer.events.name
            assert "canary" not in str(kept.headers)
            assert mailer.attempts(str(kept.message_id)) == 3
    assert await rabbitmq.depth(dead) == 0


@RABBITMQ
async def test_rabbitmq_goes_on_with_the_deaths_that_a_publisher_wrote(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    mailer = Mailer(rabbitmq, accept, POLICY)
    retry = mailer.topology.retry(1)
    death = {"queue": retry.name, "reason": "expired", "count": -1000, "exchange": "x"}
    async with mailer.running():
        await publish_confirmed(
            mailer.broker,
            Outgoing(
                body=b"{}",
                message_id="m1",
                exchange=mailer.topology.exchange("retry.1"),
                routing_key="voicemail.left.acme",
                headers={"x-death": [death]},
            ),
        )
        await mailer.arrived.get()
    counted = mailer.deliveries[0].headers["x-death"][0]["count"]
    assert counted == -999
    proof.breaks(
        "A publisher sends an `x-death` header whose count is -1000, and the consumer "
        "counts attempts by it",
        "RabbitMQ counts on from there, so the message has a thousand attempts more",
    )


@RABBITMQ
async def test_a_forged_death_may_cost_its_publisher_the_message(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    """RabbitMQ takes it for a message that goes round in circles."""
    policy = RetryPolicy(retry_on=(), delays=(), crashes=1)
    mailer = Mailer(rabbitmq, Fault(NackMessage), policy)
    dead = mailer.topology.dead().name
    death = {"queue": dead, "reason": "expired", "count": 1, "exchange": "x"}
    async with mailer.running() as broker:
        for number, headers in enumerate(({"x-death": [death]}, {})):
            message = Outgoing(
                body=b"{}",
                message_id=str(number),
                exchange=mailer.events,
                routing_key="voicemail.left.acme",
                headers=headers,
            )
            await publish_confirmed(broker, message)
            for _ in range(2):
                assert await mailer.arrived.get() == str(number)
        assert (await rabbitmq.take(dead)).message_id == "1"
        await rabbitmq.wait_for_depth(mailer.topology.name, 0)
    assert await rabbitmq.depth(dead) == 0
    proof.breaks(
        "A publisher sends an `x-death` header that names the dead-letter queue, and "
        "the message reaches the limit of deliveries",
        "RabbitMQ takes it for one that goes in circles, and drops it",
    )


@RABBITMQ
async def test_neighbours_overtake_a_message_that_waits(
    rabbitmq: RealBrokerServer,
) -> None:
    def fail(message: RabbitMessage) -> None:
        if message.message_id == "bad":
            raise ConnectionError

    policy = RetryPolicy(retry_on=(ConnectionError,), delays=(60,))
    mailer = Mailer(rabbitmq, fail, policy)
    async with mailer.running():
        await mailer.leave("bad")
        for number in range(5):
            await mailer.leave(str(number))
        order = [await mailer.arrived.get() for _ in range(6)]
        await rabbitmq.wait_for_depth(mailer.topology.retry(1).name, 1)
        assert await rabbitmq.depth(mailer.topology.name) == 0
    assert order[0] == "bad"
    assert sorted(order[1:]) == ["0", "1", "2", "3", "4"]


@RABBITMQ
async def test_messages_alike_in_body_and_errors_are_counted_apart(
    rabbitmq: RealBrokerServer,
) -> None:
    def fail(message: RabbitMessage) -> None:
        if message.message_id != "good":
            raise (ConnectionError, TimeoutError)[mailer.attempts() % 2](
                str(mailer.attempts())
            )

    policy = RetryPolicy(retry_on=(ConnectionError, TimeoutError), delays=DELAYS)
    mailer = Mailer(rabbitmq, fail, policy)
    async with mailer.running():
        for message_id in ("m1", "m2", "good", "m3"):
            await mailer.leave(message_id, body=b'{"seconds":3}')
        kept = [await rabbitmq.take(mailer.topology.dead().name) for _ in range(3)]
    assert sorted(str(one.message_id) for one in kept) == ["m1", "m2", "m3"]
    assert [mailer.attempts(one) for one in ("m1", "m2", "m3", "good")] == [3, 3, 3, 1]


@RABBITMQ
async def test_the_count_goes_on_after_the_consumer_was_restarted(
    rabbitmq: RealBrokerServer,
) -> None:
    first = Mailer(rabbitmq, refuse, POLICY)
    async with first.running():
        await first.leave()
        await first.arrived.get()
    second = Mailer(rabbitmq, refuse, POLICY)
    async with second.running():
        kept = await rabbitmq.take(second.topology.dead().name)
    assert kept.headers["x-failed-attempts"] == 3
    assert first.attempts() + second.attempts() == 3


@RABBITMQ
async def test_the_queues_are_there_before_anybody_consumes(
    rabbitmq: RealBrokerServer,
) -> None:
    mailer = Mailer(rabbitmq, accept, POLICY)
    await mailer.broker.connect()
    await declare_topology(mailer.broker, mailer.topology)
    await declare_topology(mailer.broker, mailer.topology)
    await mailer.broker.stop()
    for suffix in ("", ".dead", ".retry.1", ".retry.2"):
        assert await rabbitmq.exists(f"{mailer.topology.name}{suffix}")


@RABBITMQ
async def test_the_queue_keeps_a_message_back_for_at_most_its_delay(
    rabbitmq: RealBrokerServer,
) -> None:
    """The copy's own time, which a copier might choose badly, cannot exceed it."""
    policy = RetryPolicy(
        retry_on=(ConnectionError,), delays=(0.05,), uniform=lambda _, __: 3600
    )
    mailer = Mailer(rabbitmq, refuse, policy)
    async with mailer.running():
        await mailer.leave()
        await rabbitmq.take(mailer.topology.dead().name)
    assert mailer.attempts() == 2


@given(st.floats(0.001, 86400), st.integers(1, 3))
def test_a_delay_is_between_half_and_all_of_its_step(delay: float, step: int) -> None:
    delays = tuple(delay if one == step else 1.0 for one in (1, 2, 3))
    policy = RetryPolicy(retry_on=(ConnectionError,), delays=delays)
    copy = Topology("mailer", policy).copy(
        incoming("events" if step == 1 else f"mailer.attempt.{step}"), ConnectionError()
    )
    assert copy.expiration is not None
    assert delay / 2 <= copy.expiration <= delay


@dataclass
class Incoming:
    """What of a message of aio-pika is read."""

    exchange: str
    headers: dict[str, Any] = field(default_factory=dict)
    body: bytes = b"{}"
    routing_key: str = "voicemail.left.acme"
    message_id: str | None = None
    correlation_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    type: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    timestamp: datetime | None = None
    expiration: float | None = None


def incoming(exchange: str) -> Incoming:
    """Return a message that came from an exchange."""
    return Incoming(exchange)


def test_a_message_without_an_id_is_given_one_that_it_keeps() -> None:
    copy = Topology("mailer", POLICY).copy(incoming("events"), ConnectionError())
    assert len(copy.message_id) == 32
    assert copy.correlation_id == copy.message_id


@pytest.mark.parametrize(
    ("exchange", "attempt"),
    [
        ("mailer.replay", 1),
        ("mailer.attempt.2", 2),
        ("mailer.attempt.99", 99),
        ("mailer.attempt.x", None),
        ("mailer.attempt.", None),
        ("mailer.replays", None),
        ("mailer.requests", None),
        ("Xmailer.replay", None),
        ("mailer", None),
        ("", None),
    ],
)
def test_only_exchanges_of_its_own_say_which_attempt_it_is(
    exchange: str, attempt: int | None
) -> None:
    topology = Topology("mailer", POLICY)
    assert topology.attempt(exchange) == attempt
    copy = topology.copy(incoming(exchange), ConnectionError())
    assert copy.headers["x-failed-attempts"] == attempt or 1


def test_a_group_is_tried_again_if_each_of_its_errors_is_listed() -> None:
    listed, other = ConnectionError(), ValueError()
    assert POLICY.retries(ExceptionGroup("", [listed, listed]))
    assert not POLICY.retries(ExceptionGroup("", [listed, other]))
    assert not POLICY.retries(ExceptionGroup("", [listed, ExceptionGroup("", [other])]))
    assert POLICY.retries(ConnectionResetError())
    assert not POLICY.retries(other)
    rejected = ExceptionGroup("", [listed, RejectMessage()])
    for error in (RejectMessage(), rejected):
        assert not POLICY.retries(error)
        assert not ANYTHING.retries(error)


def test_what_is_kept_of_an_error_is_short_and_has_no_text_of_it() -> None:
    longest = type("E" * 1000, (ConnectionError,), {})("canary-4f1c")
    copy = Topology("mailer", POLICY).copy(incoming("events"), longest)
    assert copy.headers["x-failed-first-error"] == "E" * 200
    group = ExceptionGroup("canary-4f1c", [ValueError("canary-4f1c"), KeyError("k")])
    assert where(group) == "ExceptionGroup < ValueError < KeyError"


async def test_the_naive_dead_letter_tells_the_text_of_the_error(
    broker_server: AnyBroker, proof: Proof
) -> None:
    name = broker_server.name("dead-letters")
    exchange = RabbitExchange(name, type=ExchangeType.FANOUT)
    queue = RabbitQueue(broker_server.name("mailer"))
    broker = make_broker(broker_server.url)
    got = collect(broker, RabbitQueue(broker_server.name("dead")), exchange)

    async def fail(message: RabbitMessage) -> None:
        refuse(message)

    handle = RetryingHandler(broker, fail, exchange, attempts=1)

    @broker.subscriber(queue)
    async def consume(message: RabbitMessage) -> None:
        await handle(message)

    async with broker_server.running(broker), asyncio.timeout(20):
        await broker.publish(b"{}", queue, message_id="m1")
        kept = await got.get()
    assert "canary-4f1c" in str(kept.headers)
    assert kept.message_id != "m1"
    proof.breaks(
        "A handler raises an error whose text has a password in it",
        "The password is in a header of the dead letter, and the message's id is not",
    )
