"""A broker that goes away: what fails, what is kept, and what goes on by itself."""

import asyncio

import pytest
from faststream.rabbit import RabbitMessage, RabbitQueue

from catalogue.plugin import Proof
from snippets.messaging import rabbit_broker_naive
from snippets.messaging.rabbit_broker import (
    Outgoing,
    UnconfirmedError,
    make_broker,
    publish_confirmed,
)
from tests.support.rabbitmq import (
    PrivateBrokerServer,
    RealBrokerServer,
    collect,
    proxy,
)

pytestmark = pytest.mark.backends("rabbitmq")


async def test_publishing_while_the_broker_is_away_fails_and_is_not_made_up_for(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = rabbitmq.name("mailer")

    def message(message_id: str) -> Outgoing:
        return Outgoing(body=b"{}", message_id=message_id, routing_key=queue)

    async with proxy(rabbitmq) as (between, url), asyncio.timeout(30):
        broker = make_broker(url)
        got = collect(broker, queue)
        back = asyncio.Event()
        async with rabbitmq.running(broker):
            connection = await broker.connect()
            connection.reconnect_callbacks.add(lambda *_: back.set())
            await publish_confirmed(broker, message("before"))
            assert (await got.get()).message_id == "before"
            await between.cut()
            for number in range(100):
                with pytest.raises(UnconfirmedError):
                    await publish_confirmed(broker, message(str(number)), within=0.05)
            await between.open()
            await back.wait()
            await publish_confirmed(broker, message("after"))
            arrived = await got.get()
            if arrived.message_id == "before":  # its acknowledgement was cut off
                assert arrived.raw_message.redelivered
                arrived = await got.get()
            assert arrived.message_id == "after"
    while not got.empty():  # a channel that is opened twice leaves a second delivery
        again = got.get_nowait()
        assert (again.message_id, again.raw_message.redelivered) == ("after", True)
    assert await rabbitmq.depth(queue) == 0


async def test_a_confirmation_that_does_not_come_in_time_is_an_error(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = rabbitmq.name("mailer")
    async with proxy(rabbitmq) as (between, url), asyncio.timeout(30):
        broker = make_broker(url)
        async with rabbitmq.running(broker):
            await broker.declare_queue(RabbitQueue(queue))
            between.flowing.clear()
            message = Outgoing(body=b"{}", message_id="m1", routing_key=queue)
            with pytest.raises(UnconfirmedError, match=r"m1 after 0\.05 s"):
                await publish_confirmed(broker, message, within=0.05)
            between.flowing.set()
            # It was on its way all the same: nobody can say so but the queue.
            assert (await rabbitmq.take(queue)).message_id == "m1"


async def test_a_publish_that_waits_when_the_connection_breaks_fails_at_once(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = rabbitmq.name("mailer")
    async with proxy(rabbitmq) as (between, url), asyncio.timeout(30):
        broker = make_broker(url)
        async with rabbitmq.running(broker):
            await broker.declare_queue(RabbitQueue(queue))
            between.flowing.clear()
            messages = [
                Outgoing(body=b"{}", message_id=str(number), routing_key=queue)
                for number in range(3)
            ]
            waiting = [
                asyncio.create_task(publish_confirmed(broker, one, within=3600))
                for one in messages
            ]
            for _ in range(100):
                await asyncio.sleep(0)  # they go as far as they can
            await between.cut()
            between.flowing.set()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            await between.open()
    assert [type(one) for one in results] == [UnconfirmedError] * 3


async def test_a_message_that_was_being_handled_when_the_connection_broke_comes_again(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = rabbitmq.name("mailer")
    deliveries: asyncio.Queue[bool | None] = asyncio.Queue()
    async with proxy(rabbitmq) as (between, url), asyncio.timeout(30):
        broker = make_broker(url)

        @broker.subscriber(queue)
        async def handle(message: RabbitMessage) -> None:
            await deliveries.put(message.raw_message.redelivered)
            if not message.raw_message.redelivered:
                await asyncio.Event().wait()

        async with rabbitmq.running(broker):
            message = Outgoing(body=b"{}", message_id="m1", routing_key=queue)
            await publish_confirmed(broker, message)
            assert await deliveries.get() is False
            await between.cut()
            await between.open()
            assert await deliveries.get() is True
    assert await rabbitmq.depth(queue) == 0


async def test_starting_without_a_broker_fails_within_the_timeout(
    rabbitmq: RealBrokerServer,
) -> None:
    async with proxy(rabbitmq) as (between, url):
        between.flowing.clear()  # connections are taken, and nothing answers
        broker = make_broker(url, connect_timeout=0.1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(broker.start(), 20)
        await broker.stop()
        await between.cut()
        broker = make_broker(url, connect_timeout=20)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(broker.start(), 20)
        await broker.stop()
        await between.open()


async def test_a_confirmed_message_survives_a_crash_of_the_broker_without_a_consumer(
    private_rabbitmq: PrivateBrokerServer, broker_backend: str, proof: Proof
) -> None:
    assert broker_backend == "rabbitmq"
    queue = private_rabbitmq.name("mailer")
    broker = make_broker(private_rabbitmq.url)
    async with private_rabbitmq.running(broker):
        await broker.declare_queue(RabbitQueue(queue))
        message = Outgoing(body=b"kept", message_id="m1", routing_key=queue)
        await publish_confirmed(broker, message)

    naive = rabbit_broker_naive.make_broker(private_rabbitmq.url)
    lost = rabbit_broker_naive.make_queue(private_rabbitmq.name("lost"), "")
    plain = RabbitQueue(private_rabbitmq.name("plain"))
    collect(naive, lost)
    async with private_rabbitmq.running(naive):
        await naive.declare_queue(plain)
        await naive.publish("lost", plain)
        assert await private_rabbitmq.exists(lost.name)
    assert not await private_rabbitmq.exists(lost.name)
    assert await private_rabbitmq.depth(plain.name) == 1

    with private_rabbitmq.down(), pytest.raises(ConnectionError):
        await make_broker(private_rabbitmq.url).start()

    assert await private_rabbitmq.depth(plain.name) == 0
    kept = await private_rabbitmq.take(queue)
    assert (kept.body, kept.message_id) == (b"kept", "m1")
    proof.breaks(
        "The consumer stops, and messages are published",
        "Its queue was deleted with it, so there is nowhere for them to wait",
    )
    proof.breaks(
        "RabbitMQ restarts while messages wait in a durable queue",
        "They were not persistent, and are gone",
    )


async def test_a_consumer_goes_on_when_the_broker_is_back(
    private_rabbitmq: PrivateBrokerServer, broker_backend: str
) -> None:
    assert broker_backend == "rabbitmq"
    queue = private_rabbitmq.name("log")
    broker = make_broker(private_rabbitmq.url)
    got = collect(broker, queue)
    back = asyncio.Event()

    def message(message_id: str) -> Outgoing:
        return Outgoing(body=b"{}", message_id=message_id, routing_key=queue)

    async with private_rabbitmq.running(broker):
        connection = await broker.connect()
        connection.reconnect_callbacks.add(lambda *_: back.set())
        await asyncio.to_thread(private_rabbitmq.kill)
        with pytest.raises(UnconfirmedError):
            await publish_confirmed(broker, message("lost"), within=0.5)
        await asyncio.to_thread(private_rabbitmq.start)
        async with asyncio.timeout(60):
            await back.wait()
            await publish_confirmed(broker, message("m1"))
            assert (await got.get()).message_id == "m1"
    while not got.empty():  # a channel that is opened twice leaves a second delivery
        again = got.get_nowait()
        assert (again.message_id, again.raw_message.redelivered) == ("m1", True)
