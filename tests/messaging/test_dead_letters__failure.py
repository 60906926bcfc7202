"""What becomes of a message when its consumer dies, or does what is written first."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aio_pika.exceptions import AMQPError
from aiormq import spec
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue
from faststream.rabbit.schemas import Channel

from catalogue.plugin import Proof
from snippets.messaging import dead_letters
from snippets.messaging.dead_letters import RetryPolicy, Topology, declare_topology
from snippets.messaging.dead_letters_naive import RetryingHandler
from snippets.messaging.rabbit_broker import Outgoing, make_broker, publish_confirmed
from snippets.messaging.replay import depth, purge, read, replay
from tests.support.dead_letters import Mailer
from tests.support.rabbitmq import PrivateBrokerServer, RealBrokerServer, collect, proxy

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.backends("rabbitmq")


def die(url: str, queue: str) -> None:
    """Run a consumer that is killed by the message it handles."""
    command = [sys.executable, "-m", "tests.support.rabbit_consumer"]
    arguments = ["dying", url, queue]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert b"handling" in done.stdout
    assert done.returncode < 0


async def test_a_message_that_kills_its_consumer_is_kept_by_rabbitmq(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    name = rabbitmq.name("mailer")
    topology = Topology(name, RetryPolicy(retry_on=(ConnectionError,), crashes=1))
    for suffix in ("dead", "replay", "retry.1", "retry.2", "retry.3"):
        rabbitmq.name(f"mailer.{suffix}")
    for attempt in (2, 3, 4):
        rabbitmq.name(f"mailer.attempt.{attempt}")
    broker = make_broker(rabbitmq.url)
    async with rabbitmq.running(broker):
        await declare_topology(broker, topology)
        message = Outgoing(body=b"{}", message_id="m1", routing_key=name)
        await publish_confirmed(broker, message)
        for _ in range(2):
            await asyncio.to_thread(die, rabbitmq.url, name)
    kept = await rabbitmq.take(topology.dead().name)
    assert (kept.message_id, kept.body) == ("m1", b"{}")
    assert kept.headers["x-first-death-reason"] == "delivery_limit"
    letter = read(topology, kept)
    assert (letter.reason, letter.attempts, letter.first_error) == (
        "delivery_limit",
        1,
        None,
    )
    assert await rabbitmq.depth(name) == 0
    proof.cost("message that kills its consumer, with `crashes` 1", deliveries=2)


class Far(datetime):
    """A time that AMQP can say, and Python cannot."""

    def timestamp(self) -> float:
        """Return some billion years."""
        return 2.0**60


async def test_a_message_that_the_client_cannot_read_takes_along_what_is_beside_it(
    rabbitmq: RealBrokerServer,
) -> None:
    mailer = Mailer(rabbitmq, str, RetryPolicy(retry_on=(), delays=(), crashes=1))
    work, dead = mailer.topology.name, mailer.topology.dead().name
    properties = spec.Basic.Properties(timestamp=Far.now(UTC), delivery_mode=2)
    neighbour = Outgoing(body=b"{}", message_id="m1", routing_key=work)
    operator = make_broker(rabbitmq.url)
    async with rabbitmq.running(operator), rabbitmq.channel() as channel:
        await declare_topology(operator, mailer.topology)
        underlay = await channel.get_underlay_channel()
        await underlay.basic_publish(b"{}", routing_key=work, properties=properties)
        await publish_confirmed(operator, neighbour)
        async with mailer.running():
            await rabbitmq.wait_for_depth(dead, 2)
        assert mailer.deliveries == []
        with pytest.raises(AMQPError):
            await replay(operator, mailer.topology, limit=2)
    async with rabbitmq.running(operator):
        assert await purge(operator, mailer.topology) == 2


async def test_a_message_whose_headers_fill_a_frame_costs_no_connection(
    rabbitmq: RealBrokerServer,
) -> None:
    """With the history beside them, a copy's headers would not fit into one."""

    def fail(message: RabbitMessage) -> None:
        if message.message_id == "m1":
            raise ConnectionError

    policy = RetryPolicy(retry_on=(ConnectionError,), crashes=1)
    mailer = Mailer(rabbitmq, fail, policy)
    work, dead = mailer.topology.name, mailer.topology.dead().name
    operator = make_broker(rabbitmq.url)
    async with rabbitmq.running(operator):
        await declare_topology(operator, mailer.topology)
        full = Outgoing(
            body=b"{}", message_id="m1", routing_key=work, headers={"a": "b" * 130_900}
        )
        await publish_confirmed(operator, full)
        await publish_confirmed(operator, replace(full, message_id="m2", headers={}))
        async with mailer.running():
            await rabbitmq.wait_for_depth(dead, 1)
            while not mailer.attempts("m2"):
                await mailer.arrived.get()
    assert (mailer.attempts("m1"), mailer.attempts("m2")) == (1, 1)
    kept = await rabbitmq.take(dead)
    assert (kept.message_id, kept.headers["a"]) == ("m1", full.headers["a"])
    assert read(mailer.topology, kept).reason == "rejected"


async def test_a_consumer_cut_off_before_it_acknowledges_leaves_two_under_one_id(
    rabbitmq: RealBrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: RabbitMessage) -> None:
        raise ValueError

    mailer = Mailer(rabbitmq, fail, RetryPolicy(retry_on=(), delays=()))
    async with proxy(rabbitmq) as (between, url):
        mailer.broker = mailer.make(url)

        async def confirmed_and_cut(broker: RabbitBroker, copy: Outgoing) -> None:
            await publish_confirmed(broker, copy)
            monkeypatch.undo()
            await between.cut()
            await between.open()

        monkeypatch.setattr(dead_letters, "publish_confirmed", confirmed_and_cut)
        async with mailer.running():
            await mailer.leave()
            kept = [await rabbitmq.take(mailer.topology.dead().name) for _ in range(2)]
    assert [one.message_id for one in kept] == ["m1", "m1"]
    assert [one.headers["x-failed-attempts"] for one in kept] == [1, 1]
    assert await rabbitmq.depth(mailer.topology.name) == 0


async def test_each_cut_after_a_confirmation_leaves_one_more_under_its_id(
    rabbitmq: RealBrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cut is on the way to a retry, the second on that to a dead letter."""

    def fail(_: RabbitMessage) -> None:
        raise ConnectionError

    policy = RetryPolicy(retry_on=(ConnectionError,), delays=(0.05,))
    mailer = Mailer(rabbitmq, fail, policy)
    cuts = [mailer.topology.exchange(one).name for one in ("dead", "retry.1")]
    async with proxy(rabbitmq) as (between, url):
        mailer.broker = mailer.make(url)

        async def confirmed_and_cut(broker: RabbitBroker, copy: Outgoing) -> None:
            await publish_confirmed(broker, copy)
            if cuts and getattr(copy.exchange, "name", None) == cuts[-1]:
                cuts.pop()
                await between.cut()
                await between.open()

        monkeypatch.setattr(dead_letters, "publish_confirmed", confirmed_and_cut)
        async with mailer.running():
            await mailer.leave()
            kept = [await rabbitmq.take(mailer.topology.dead().name) for _ in range(3)]
            await rabbitmq.wait_for_depth(mailer.topology.name, 0)
    assert cuts == []
    assert [one.message_id for one in kept] == ["m1"] * 3
    assert [one.headers["x-failed-attempts"] for one in kept] == [2] * 3


async def test_other_delays_need_empty_queues_that_are_deleted(
    rabbitmq: RealBrokerServer,
) -> None:
    def fail(_: RabbitMessage) -> None:
        raise ConnectionError

    retry_on = (ConnectionError,)
    old = Mailer(rabbitmq, fail, RetryPolicy(retry_on=retry_on, delays=(60,)))
    new = Mailer(rabbitmq, fail, RetryPolicy(retry_on=retry_on, delays=(0.05,)))
    async with old.running():
        pass
    broker = make_broker(rabbitmq.url)
    await broker.connect()
    with pytest.raises(Exception, match="inequivalent arg 'x-message-ttl'"):
        await declare_topology(broker, new.topology)
    await broker.stop()
    assert await rabbitmq.depth(old.topology.retry(1).name) == 0
    async with rabbitmq.channel() as channel:  # a quorum queue refuses `if_empty`
        await channel.queue_delete(old.topology.retry(1).name)
    async with new.running():
        await new.leave()
        assert (await rabbitmq.take(new.topology.dead().name)).message_id == "m1"
    assert new.attempts() == 2


async def test_what_has_no_queue_to_go_to_waits_where_it_is_until_there_is_one(
    private_rabbitmq: PrivateBrokerServer, broker_backend: str
) -> None:
    assert broker_backend == "rabbitmq"
    policy = RetryPolicy(retry_on=(ConnectionError,), crashes=1)
    topology = Topology(private_rabbitmq.name("kept"), policy)
    broker = make_broker(private_rabbitmq.url)
    async with private_rabbitmq.running(broker), asyncio.timeout(60):
        await declare_topology(broker, topology)
        async with private_rabbitmq.channel() as channel:
            await channel.queue_delete(topology.dead().name)
        message = Outgoing(body=b"{}", message_id="m1", routing_key=topology.name)
        await publish_confirmed(broker, message)
        queue = await broker.declare_queue(topology.work())
        for left in (1, 0):
            await (await queue.get()).nack(requeue=True)
            await private_rabbitmq.wait_for_depth(topology.name, left)
    broker = make_broker(private_rabbitmq.url)  # the other one takes it for declared
    async with private_rabbitmq.running(broker):
        await declare_topology(broker, topology)
    # RabbitMQ tries again after minutes, and when it starts.
    await asyncio.to_thread(private_rabbitmq.restart)
    assert (await private_rabbitmq.take(topology.dead().name)).message_id == "m1"


async def test_a_message_that_waits_survives_a_crash_of_the_broker_with_its_count(
    private_rabbitmq: PrivateBrokerServer, broker_backend: str
) -> None:
    assert broker_backend == "rabbitmq"
    fault = asyncio.Event()

    def fail(_: RabbitMessage) -> None:
        fault.set()
        raise ConnectionError

    # Long enough for the first one to stop, and over when the node is back.
    policy = RetryPolicy(
        retry_on=(ConnectionError,), delays=(20,), uniform=lambda low, _: low
    )
    first = Mailer(private_rabbitmq, fail, policy)
    retry = first.topology.retry(1).name
    async with first.running() as broker:
        assert await depth(broker, first.topology) == 0
    # RabbitMQ 3.10 writes down new quorum queues late, and at the latest when it stops.
    await asyncio.to_thread(private_rabbitmq.restart)
    first = Mailer(private_rabbitmq, fail, policy)
    async with first.running():
        await first.leave()
        await fault.wait()
    await private_rabbitmq.wait_for_depth(retry, 1)
    await asyncio.to_thread(private_rabbitmq.kill)
    await asyncio.to_thread(private_rabbitmq.start)
    second = Mailer(private_rabbitmq, fail, policy)
    async with second.running():
        kept = await private_rabbitmq.take(second.topology.dead().name)
    assert (kept.message_id, kept.headers["x-failed-attempts"]) == ("m1", 2)
    assert (first.attempts(), second.attempts()) == (1, 1)


async def test_the_naive_dead_letter_is_lost(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    exchange = RabbitExchange(rabbitmq.name("dead-letters"))
    dead = RabbitQueue(rabbitmq.name("dead"))
    queue = RabbitQueue(rabbitmq.name("mailer"))
    broker = RabbitBroker(rabbitmq.url, logger=None)
    handled = asyncio.Event()

    async def fail(message: RabbitMessage) -> None:
        if message.message_id == "good":
            handled.set()
        else:
            raise ConnectionError

    handle = RetryingHandler(broker, fail, exchange, attempts=1)

    @broker.subscriber(queue)
    async def consume(message: RabbitMessage) -> None:
        await handle(message)

    async with rabbitmq.running(broker), asyncio.timeout(20):
        declared = await broker.declare_queue(dead)
        await declared.bind(await broker.declare_exchange(exchange))
        for message_id in ("bad", "good"):
            await broker.publish(b"{}", queue, message_id=message_id)
        await handled.wait()
    for one in (dead, queue):
        assert await rabbitmq.depth(one.name) == 0
    proof.breaks(
        "A handler fails for the last time, and its message is published to the "
        "dead-letter exchange without a routing key",
        "No queue takes it, nobody is told, and the message is acknowledged",
    )


async def test_the_naive_retry_keeps_its_neighbours_waiting(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    queue = RabbitQueue(rabbitmq.name("mailer"))
    channel = Channel(prefetch_count=1)
    broker = RabbitBroker(rabbitmq.url, logger=None, default_channel=channel)
    order: list[str] = []
    handled = asyncio.Event()

    async def fail(message: RabbitMessage) -> None:
        order.append(message.message_id)
        if message.message_id == "good":
            handled.set()
        else:
            raise ConnectionError

    handle = RetryingHandler(broker, fail, RabbitExchange(rabbitmq.name("dead")))
    publisher = make_broker(rabbitmq.url)
    async with rabbitmq.running(publisher), asyncio.timeout(20):
        await publisher.declare_queue(queue)
        for message_id in ("bad", "good"):
            message = Outgoing(
                body=b"{}", message_id=message_id, routing_key=queue.name
            )
            await publish_confirmed(publisher, message)

        @broker.subscriber(queue)
        async def consume(message: RabbitMessage) -> None:
            await handle(message)

        async with rabbitmq.running(broker):
            await broker.declare_exchange(handle.dead_letters)
            await handled.wait()
    before = order.index("good")
    assert before > 10
    proof.breaks(
        "A message fails, and is given back to its queue at once",
        f"It is delivered {before} times in a row before its neighbour is",
    )


async def test_a_second_subscriber_of_the_dead_letters_can_be_added(
    rabbitmq: RealBrokerServer,
) -> None:
    def fail(_: RabbitMessage) -> None:
        raise ValueError

    mailer = Mailer(rabbitmq, fail, RetryPolicy(retry_on=(), delays=()))
    got = collect(mailer.broker, mailer.topology.dead())
    async with mailer.running():
        await mailer.leave()
        kept = await got.get()
    assert (kept.message_id, kept.headers["x-failed-reason"]) == ("m1", "error")
