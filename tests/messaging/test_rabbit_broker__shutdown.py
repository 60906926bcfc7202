"""A consumer that stops finishes its message; one that was killed loses none."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from faststream.exceptions import NackMessage
from faststream.rabbit import RabbitQueue
from faststream.rabbit.annotations import RabbitMessage

from catalogue.plugin import Proof
from snippets.messaging.rabbit_broker import Outgoing, make_broker, publish_confirmed
from tests.support.rabbitmq import AnyBroker, RealBrokerServer

ROOT = Path(__file__).parents[2]


def kill_while_handling(maker: str, url: str, queue: str) -> None:
    """Start a process that consumes, and kill it when it handles a message."""
    command = [sys.executable, "-m", "tests.support.rabbit_consumer", maker, url, queue]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line == "handling\n":
                    return
            pytest.fail("the consumer ended")
        finally:
            process.kill()


@pytest.mark.backends("rabbitmq")
async def test_a_message_whose_process_was_killed_is_delivered_again(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = rabbitmq.name("mailer")
    broker = make_broker(rabbitmq.url)
    async with rabbitmq.running(broker):
        await broker.declare_queue(RabbitQueue(queue))
        message = Outgoing(body=b"{}", message_id="m1", routing_key=queue)
        await publish_confirmed(broker, message)
    await asyncio.to_thread(kill_while_handling, "pattern", rabbitmq.url, queue)
    again = await rabbitmq.take(queue)
    assert (again.message_id, again.redelivered) == ("m1", True)


@pytest.mark.backends("rabbitmq")
async def test_a_message_whose_naive_process_was_killed_is_gone(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    queue = rabbitmq.name("mailer")
    broker = make_broker(rabbitmq.url)
    async with rabbitmq.running(broker):
        await broker.declare_queue(RabbitQueue(queue))
        message = Outgoing(body=b"{}", message_id="m1", routing_key=queue)
        await publish_confirmed(broker, message)
    await asyncio.to_thread(kill_while_handling, "naive", rabbitmq.url, queue)
    assert await rabbitmq.depth(queue) == 0
    proof.breaks(
        "The process is killed while it handles a message",
        "The message was acknowledged when it came in, and is gone",
    )


@pytest.mark.backends("rabbitmq")
async def test_stopping_waits_for_the_running_handler_and_begins_no_other(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = RabbitQueue(rabbitmq.name("mailer"))
    broker = make_broker(rabbitmq.url, prefetch=1)
    begun: asyncio.Queue[None] = asyncio.Queue()
    go = asyncio.Event()

    @broker.subscriber(queue)
    async def handle() -> None:
        await begun.put(None)
        await go.wait()

    async with asyncio.timeout(20), rabbitmq.running(broker):
        for number in range(2):
            message = Outgoing(
                body=b"{}", message_id=str(number), routing_key=queue.name
            )
            await publish_confirmed(broker, message)
        await begun.get()
        stopping = asyncio.create_task(broker.stop())
        for _ in range(100):
            await asyncio.sleep(0)  # it goes as far as it can
        assert not any(one.running for one in broker.subscribers)
        assert not stopping.done()
        go.set()
        await stopping
    assert begun.empty()
    assert (await rabbitmq.take(queue.name)).message_id == "1"
    assert await rabbitmq.depth(queue.name) == 0


async def test_a_message_that_a_handler_gives_back(
    broker_server: AnyBroker, proof: Proof
) -> None:
    queue = RabbitQueue(broker_server.name("mailer"))
    broker = make_broker(broker_server.url)
    deliveries: asyncio.Queue[bool | None] = asyncio.Queue()

    @broker.subscriber(queue)
    async def handle(message: RabbitMessage) -> None:
        await deliveries.put(message.raw_message.redelivered)
        if not message.raw_message.redelivered:
            raise NackMessage

    title = "A message that its handler gives back"
    async with asyncio.timeout(20), broker_server.running(broker):
        message = Outgoing(body=b"{}", message_id="m1", routing_key=queue.name)
        await publish_confirmed(broker, message)
        if isinstance(broker_server, RealBrokerServer):
            assert [await deliveries.get() for _ in range(2)] == [False, True]
            proof.differs(title, "It is delivered again, flagged as redelivered")
        else:
            assert deliveries.qsize() == 1
            proof.differs(title, "It is gone")


@pytest.mark.backends("rabbitmq")
async def test_a_handler_that_outlasts_the_drain_is_cancelled_and_its_message_kept(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = RabbitQueue(rabbitmq.name("mailer"))
    broker = make_broker(rabbitmq.url, drain=0.05)
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @broker.subscriber(queue)
    async def handle() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with asyncio.timeout(20):
        async with rabbitmq.running(broker):
            message = Outgoing(body=b"{}", message_id="m1", routing_key=queue.name)
            await publish_confirmed(broker, message)
            await begun.wait()
        await cancelled.wait()
    again = await rabbitmq.take(queue.name)
    assert (again.message_id, again.redelivered) == ("m1", True)


@pytest.mark.backends("rabbitmq")
async def test_a_message_that_is_rejected_without_a_dead_letter_exchange_is_gone(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = RabbitQueue(rabbitmq.name("mailer"))
    broker = make_broker(rabbitmq.url)
    handled = asyncio.Event()

    @broker.subscriber(queue)
    async def handle(body: str) -> None:
        if body == "bad":
            raise RuntimeError
        handled.set()

    async with rabbitmq.running(broker), asyncio.timeout(20):
        await broker.publish("bad", queue)
        await broker.publish("good", queue)
        await handled.wait()
    assert await rabbitmq.depth(queue.name) == 0


@pytest.mark.backends("rabbitmq")
async def test_a_handler_that_awaits_what_was_cancelled_gives_its_place_to_the_next(
    rabbitmq: RealBrokerServer,
) -> None:
    queue = RabbitQueue(rabbitmq.name("mailer"))
    broker = make_broker(rabbitmq.url, prefetch=1)
    handled: asyncio.Queue[str] = asyncio.Queue()

    @broker.subscriber(queue)
    async def handle(message: RabbitMessage) -> None:
        await handled.put(message.message_id)
        if message.message_id == "m1":
            inner = asyncio.create_task(asyncio.Event().wait())
            inner.cancel()
            await inner

    async with rabbitmq.running(broker), asyncio.timeout(20):
        for message_id in ("m1", "m2"):
            message = Outgoing(
                body=b"{}", message_id=message_id, routing_key=queue.name
            )
            await publish_confirmed(broker, message)
        assert [await handled.get() for _ in range(2)] == ["m1", "m2"]
    assert await rabbitmq.depth(queue.name) == 0
