"""What was given up can be looked at, chosen, and handled once more."""

from dataclasses import dataclass
from typing import Any

import pytest
from faststream.rabbit import RabbitBroker, RabbitMessage, RabbitQueue

from catalogue.plugin import Proof
from snippets.messaging import replay as module
from snippets.messaging import replay_naive
from snippets.messaging.dead_letters import RetryPolicy, Topology
from snippets.messaging.rabbit_broker import (
    Outgoing,
    UnconfirmedError,
    UnroutableError,
    make_broker,
    publish_confirmed,
)
from snippets.messaging.replay import DeadLetter, depth, purge, read, replay
from tests.support.counters import count_messages
from tests.support.dead_letters import Mailer
from tests.support.rabbitmq import RealBrokerServer, collect, proxy

POLICY = RetryPolicy(retry_on=(ConnectionError,), delays=(0.05,))
RABBITMQ = pytest.mark.backends("rabbitmq")


class Fault:
    """A fault that a test may mend."""

    def __init__(self) -> None:
        """Begin broken."""
        self.there = True

    def __call__(self, _: RabbitMessage) -> None:
        """Fail while it is there."""
        if self.there:
            raise ValueError("canary-4f1c")


async def dead_mailer(
    server: RealBrokerServer, mailer: Mailer, messages: list[str]
) -> None:
    """Wait until all these messages are dead, one after the other."""
    for number, message_id in enumerate(messages, 1):
        await mailer.leave(message_id, body=f'{{"id":"{message_id}"}}'.encode())
        await server.wait_for_depth(mailer.topology.dead().name, number)


@RABBITMQ
async def test_a_replayed_message_is_handled_as_it_was_published(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    fault = Fault()
    mailer = Mailer(rabbitmq, fault, POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1"])
        fault.there = False
        with count_messages() as seen:
            assert await replay(broker, mailer.topology, limit=10) == 1
        while await mailer.arrived.get() and len(mailer.deliveries) < 2:
            pass
        assert await depth(broker, mailer.topology) == 0
    before, after = mailer.deliveries
    assert after.body == before.body == b'{"id":"m1"}'
    assert after.message_id == "m1"
    assert after.correlation_id == "request-1"
    assert after.content_type == "application/json"
    assert after.raw_message.type == "voicemail.left"
    assert after.raw_message.routing_key == "voicemail.left.acme"
    assert after.headers == {"tenant": "acme", "x-failed-exchange": mailer.events.name}
    assert seen.total == seen.confirmed == 1
    proof.cost("replay of a message", messages=1, confirms=1)


@RABBITMQ
async def test_a_replayed_message_has_all_its_attempts_again(
    rabbitmq: RealBrokerServer,
) -> None:
    def fail(_: RabbitMessage) -> None:
        raise ConnectionError

    mailer = Mailer(rabbitmq, fail, POLICY)
    dead = mailer.topology.dead().name
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1"])
        assert mailer.attempts() == 2
        assert await replay(broker, mailer.topology, limit=1) == 1
        kept = await rabbitmq.take(dead)
    assert mailer.attempts() == 4
    letter = read(mailer.topology, kept)
    assert (letter.attempts, letter.reason) == (2, "attempts")
    assert letter.exchange == mailer.events.name
    assert letter.routing_key == "voicemail.left.acme"
    assert letter.headers == {"tenant": "acme"}


@RABBITMQ
async def test_one_message_can_be_aimed_at_and_the_others_stay(
    rabbitmq: RealBrokerServer,
) -> None:
    fault = Fault()
    mailer = Mailer(rabbitmq, fault, POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1", "m2", "m3", "m4"])
        fault.there = False

        def is_it(letter: DeadLetter) -> bool:
            return letter.message_id == "m3"

        assert await replay(broker, mailer.topology, limit=1, wanted=is_it) == 1
        while mailer.attempts("m3") < 2:
            await mailer.arrived.get()
        await rabbitmq.wait_for_depth(mailer.topology.dead().name, 3)
    dead = mailer.topology.dead().name
    kept = [str((await rabbitmq.take(dead)).message_id) for _ in range(3)]
    assert sorted(kept) == ["m1", "m2", "m4"]
    assert mailer.attempts("m3") == 2


@RABBITMQ
async def test_messages_are_replayed_in_batches_the_oldest_first(
    rabbitmq: RealBrokerServer,
) -> None:
    fault = Fault()
    mailer = Mailer(rabbitmq, fault, POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1", "m2", "m3"])
        fault.there = False
        while not mailer.arrived.empty():
            mailer.arrived.get_nowait()
        for oldest in (["m1", "m2"], ["m3"], []):
            assert await replay(broker, mailer.topology, limit=2) == len(oldest)
            assert sorted([await mailer.arrived.get() for _ in oldest]) == oldest
    assert mailer.arrived.empty()
    assert await rabbitmq.depth(mailer.topology.dead().name) == 0


@RABBITMQ
async def test_what_was_not_wanted_is_there_for_the_next_replay(
    rabbitmq: RealBrokerServer,
) -> None:
    seen: list[str | None] = []

    def look(letter: DeadLetter) -> bool:
        seen.append(letter.message_id)
        return False

    mailer = Mailer(rabbitmq, Fault(), POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1", "m2", "m3"])
        for _ in range(5):
            assert await replay(broker, mailer.topology, limit=1, wanted=look) == 0
    assert sorted(map(str, seen)) == ["m1"] * 5 + ["m2"] * 5 + ["m3"] * 5
    kept = await rabbitmq.take(mailer.topology.dead().name)
    assert kept.headers["x-delivery-count"] == 5


@RABBITMQ
async def test_what_a_stranger_published_there_holds_up_nothing(
    rabbitmq: RealBrokerServer,
) -> None:
    fault = Fault()
    mailer = Mailer(rabbitmq, fault, POLICY)
    letters: list[DeadLetter] = []

    def look(letter: DeadLetter) -> bool:
        letters.append(letter)
        return True

    strange: dict[str, Any] = {"x-death": "rubbish", "x-failed-attempts": "many"}
    async with mailer.running() as broker:
        stranger = Outgoing(
            body=b"{}",
            message_id="m0",
            exchange=mailer.topology.exchange("dead"),
            routing_key="",
            headers=strange,
        )
        await publish_confirmed(broker, stranger)
        await rabbitmq.wait_for_depth(mailer.topology.dead().name, 1)
        await mailer.leave()
        await rabbitmq.wait_for_depth(mailer.topology.dead().name, 2)
        fault.there = False
        assert await replay(broker, mailer.topology, limit=2, wanted=look) == 2
        while mailer.attempts("m1") < 2 or not mailer.attempts("m0"):
            await mailer.arrived.get()
    assert [(one.message_id, one.reason) for one in letters] == [
        ("m0", "unknown"),
        ("m1", "error"),
    ]


@RABBITMQ
async def test_what_fails_again_is_not_replayed_again_by_the_same_call(
    rabbitmq: RealBrokerServer,
) -> None:
    mailer = Mailer(rabbitmq, Fault(), POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1", "m2"])
        assert await replay(broker, mailer.topology, limit=1000) == 2
        await rabbitmq.wait_for_depth(mailer.topology.dead().name, 2)
    assert mailer.attempts("m1") == mailer.attempts("m2") == 2


@RABBITMQ
async def test_a_replayed_message_goes_to_no_other_consumer(
    rabbitmq: RealBrokerServer,
) -> None:
    fault = Fault()
    mailer = Mailer(rabbitmq, fault, POLICY)
    log = RabbitQueue(rabbitmq.name("log"), routing_key="voicemail.#")
    logged = collect(mailer.broker, log, mailer.events)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1"])
        fault.there = False
        await replay(broker, mailer.topology, limit=1)
        while mailer.attempts() < 2:
            await mailer.arrived.get()
    assert await rabbitmq.depth(log.name) == 0
    assert logged.qsize() == 1


@RABBITMQ
async def test_the_naive_replay_goes_to_every_consumer_under_a_new_id(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    fault = Fault()
    mailer = Mailer(rabbitmq, fault, POLICY)
    log = RabbitQueue(rabbitmq.name("log"), routing_key="voicemail.#")
    logged = collect(mailer.broker, log, mailer.events)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1"])
        fault.there = False
        dead = mailer.topology.dead()
        assert await replay_naive.replay(broker, dead, mailer.events) == 1
        ids = [(await logged.get()).message_id for _ in range(2)]
    assert ids[0] == "m1"
    assert ids[1] != "m1"
    proof.breaks(
        "A dead letter of one consumer is published to its exchange again",
        "A consumer that had handled it is given it a second time, under another id",
    )


@RABBITMQ
async def test_the_naive_replay_loses_what_it_could_not_publish(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    mailer = Mailer(rabbitmq, Fault(), POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1", "m2"])
        async with rabbitmq.channel() as channel:
            work = await channel.get_queue(mailer.topology.name, ensure=False)
            await work.unbind(mailer.events.name, "voicemail.left.*")
        dead = mailer.topology.dead()
        with pytest.raises(Exception, match="NO_ROUTE"):
            await replay_naive.replay(broker, dead, mailer.events)
        assert await depth(broker, mailer.topology) == 1
    proof.breaks(
        "Publishing a dead letter again fails",
        "It was acknowledged when it was read, and is gone",
    )


@RABBITMQ
async def test_a_copy_that_is_not_confirmed_leaves_all_where_they_are(
    rabbitmq: RealBrokerServer,
) -> None:
    mailer = Mailer(rabbitmq, Fault(), POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1", "m2"])
        async with rabbitmq.channel() as channel:
            work = await channel.get_queue(mailer.topology.name, ensure=False)
            await work.unbind(mailer.topology.exchange("replay").name, work.name)
        with pytest.raises(UnroutableError):
            await replay(broker, mailer.topology, limit=10)
    dead = mailer.topology.dead().name
    kept = [str((await rabbitmq.take(dead)).message_id) for _ in range(2)]
    assert sorted(kept) == ["m1", "m2"]


@RABBITMQ
async def test_a_connection_that_is_lost_before_the_confirmation_is_told_as_such(
    rabbitmq: RealBrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = Mailer(rabbitmq, Fault(), POLICY)
    async with mailer.running():
        await dead_mailer(rabbitmq, mailer, ["m1", "m2"])
        async with proxy(rabbitmq) as (between, url):
            operator = make_broker(url)

            async def cut_and_publish(broker: RabbitBroker, copy: Outgoing) -> None:
                await between.cut()
                await publish_confirmed(broker, copy)

            monkeypatch.setattr(module, "publish_confirmed", cut_and_publish)
            async with rabbitmq.running(operator):
                with pytest.raises(UnconfirmedError):
                    await replay(operator, mailer.topology, limit=1)
    dead = mailer.topology.dead().name
    kept = [str((await rabbitmq.take(dead)).message_id) for _ in range(2)]
    assert sorted(kept) == ["m1", "m2"]


@RABBITMQ
async def test_a_filter_that_raises_loses_nothing(rabbitmq: RealBrokerServer) -> None:
    def stumble(_: DeadLetter) -> bool:
        raise LookupError

    mailer = Mailer(rabbitmq, Fault(), POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1"])
        with pytest.raises(LookupError):
            await replay(broker, mailer.topology, limit=1, wanted=stumble)
    assert (await rabbitmq.take(mailer.topology.dead().name)).message_id == "m1"


@RABBITMQ
async def test_cut_off_between_confirmation_and_acknowledgement_it_is_there_twice(
    rabbitmq: RealBrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault()
    mailer = Mailer(rabbitmq, fault, POLICY)
    async with mailer.running():
        await dead_mailer(rabbitmq, mailer, ["m1"])
        fault.there = False
        async with proxy(rabbitmq) as (between, url):
            operator = make_broker(url)

            async def confirmed_and_cut(broker: RabbitBroker, copy: Outgoing) -> None:
                await publish_confirmed(broker, copy)
                await between.cut()

            monkeypatch.setattr(module, "publish_confirmed", confirmed_and_cut)
            async with rabbitmq.running(operator):
                await replay(operator, mailer.topology, limit=1)
        while mailer.attempts() < 2:
            await mailer.arrived.get()
        again = await rabbitmq.take(mailer.topology.dead().name)
    assert again.message_id == "m1" == mailer.deliveries[1].message_id


@RABBITMQ
async def test_purging_says_how_many_it_were(rabbitmq: RealBrokerServer) -> None:
    mailer = Mailer(rabbitmq, Fault(), POLICY)
    async with mailer.running() as broker:
        await dead_mailer(rabbitmq, mailer, ["m1", "m2"])
        assert await depth(broker, mailer.topology) == 2
        assert await purge(broker, mailer.topology) == 2
        assert await depth(broker, mailer.topology) == 0


@dataclass
class Incoming:
    """What of a message of aio-pika is read."""

    headers: dict[str, Any]
    body: bytes = b"{}"
    routing_key: str = "voicemail.left.acme"
    message_id: str | None = "m1"


OWN: dict[str, Any] = {
    "x-failed-exchange": "events",
    "x-failed-attempts": 2,
    "x-failed-reason": "attempts",
    "x-failed-first-error": "ConnectionError in refuse:31",
    "x-failed-last-error": "TimeoutError in refuse:31",
}


def test_a_dead_letter_says_what_it_was_and_why_it_was_given_up() -> None:
    letter = read(Topology("mailer", POLICY), Incoming({"tenant": "acme", **OWN}))
    assert letter == DeadLetter(
        message_id="m1",
        exchange="events",
        routing_key="voicemail.left.acme",
        attempts=2,
        reason="attempts",
        first_error="ConnectionError in refuse:31",
        last_error="TimeoutError in refuse:31",
        headers={"tenant": "acme"},
        body=b"{}",
    )


def test_what_rabbitmq_moved_in_its_second_attempt_has_the_history_of_the_first() -> (
    None
):
    death = {"exchange": "mailer.attempt.2", "reason": "delivery_limit", "count": 1}
    letter = read(Topology("mailer", POLICY), Incoming({"x-death": [death], **OWN}))
    assert (letter.attempts, letter.reason) == (3, "delivery_limit")
    assert letter.exchange == "events"
    assert letter.first_error == "ConnectionError in refuse:31"


def test_what_rabbitmq_moved_in_its_first_attempt_has_no_history_of_a_publisher() -> (
    None
):
    death: dict[str, Any] = {
        "exchange": "other",
        "reason": "delivery_limit",
        "count": 1,
    }
    forged = OWN | {"x-failed-attempts": "many"}
    for source in ("other", "mailer.requests", "mailer.attempt.x"):
        death["exchange"] = source
        message = Incoming({"x-death": [death], **forged})
        letter = read(Topology("mailer", POLICY), message)
        assert (letter.attempts, letter.exchange) == (1, source)
        assert (letter.first_error, letter.last_error) == (None, None)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-death": []},
        {"x-death": [None]},
        {"x-death": "rubbish"},
        {"x-death": {"exchange": "events"}},
        {"x-failed-attempts": "many", "x-failed-reason": None},
    ],
)
def test_what_nobody_has_given_up_is_unknown(headers: dict[str, Any]) -> None:
    letter = read(Topology("mailer", POLICY), Incoming(headers))
    assert (letter.attempts, letter.exchange, letter.reason) == (0, "", "unknown")
    assert (letter.first_error, letter.last_error) == (None, None)
    assert letter.headers == {}


@pytest.mark.parametrize("value", [None, 7, True, [1], {"a": 1}, b"\xff"])
def test_no_value_of_a_header_makes_reading_raise(value: object) -> None:
    death = {"exchange": value, "reason": value}
    own = dict.fromkeys(OWN, value)
    for headers in (own, {"x-death": [death], **own}, {"x-death": value}):
        letter = read(Topology("mailer", POLICY), Incoming(headers))
        assert isinstance(letter.reason, str)
        assert isinstance(letter.attempts, int)
