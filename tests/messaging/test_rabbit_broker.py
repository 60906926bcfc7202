"""What is published is confirmed or an error; what is consumed stays within bounds."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aio_pika.exceptions import PublishError as ClientPublishError
from faststream.exceptions import SubscriberNotFound
from faststream.rabbit import (
    Channel,
    ExchangeType,
    RabbitBroker,
    RabbitExchange,
    RabbitQueue,
)
from faststream.rabbit.annotations import RabbitMessage

from catalogue.plugin import Proof
from snippets.messaging import rabbit_broker_naive
from snippets.messaging.rabbit_broker import (
    Outgoing,
    UnconfirmedError,
    UnroutableError,
    make_broker,
    publish_confirmed,
)
from tests.support.counters import count_messages
from tests.support.rabbitmq import AnyBroker, RealBrokerServer, collect

CONTEXT = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tenant": "acme",
}


@pytest.fixture
def broker(broker_server: AnyBroker) -> RabbitBroker:
    """A broker that handles two messages at a time."""
    return make_broker(broker_server.url, prefetch=2, connect_timeout=10)


@pytest.fixture
def exchange(broker_server: AnyBroker) -> RabbitExchange:
    """The exchange of all events."""
    return RabbitExchange(broker_server.name("events"), type=ExchangeType.TOPIC)


@pytest.fixture
def queue(broker_server: AnyBroker) -> RabbitQueue:
    """The queue of a mailer, which wants to know of voicemails."""
    name = broker_server.name("mailer")
    return RabbitQueue(name, routing_key="voicemail.left.*")


def left(message_id: str = "m1", exchange: RabbitExchange | str = "") -> Outgoing:
    """Return the message that somebody left a voicemail."""
    key = "voicemail.left.acme"
    return Outgoing(
        body=b'{"seconds":3}', message_id=message_id, exchange=exchange, routing_key=key
    )


@asynccontextmanager
async def time_limit() -> AsyncIterator[None]:
    """Fail rather than hang."""
    async with asyncio.timeout(20):
        yield


async def test_a_message_arrives_with_all_that_was_said_about_it(
    broker_server: AnyBroker,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    queue: RabbitQueue,
    proof: Proof,
) -> None:
    got = collect(broker, queue, exchange)
    message = Outgoing(
        body=b'{"seconds":3}',
        message_id="m1",
        exchange=exchange,
        routing_key="voicemail.left.acme",
        correlation_id="c" * 128,
        type="voicemail.left",
        headers=CONTEXT,
    )
    async with broker_server.running(broker), time_limit():
        with count_messages() as seen:
            await publish_confirmed(broker, message)
        arrived = await got.get()
    assert arrived.body == b'{"seconds":3}'
    assert arrived.message_id == "m1"
    assert arrived.correlation_id == "c" * 128
    assert arrived.content_type == "application/json"
    assert arrived.headers == CONTEXT
    raw = arrived.raw_message
    assert raw.routing_key == "voicemail.left.acme"
    assert seen.total == 1
    if isinstance(broker_server, RealBrokerServer):
        assert (raw.type, raw.delivery_mode) == ("voicemail.left", 2)
        assert seen.confirmed == 1
        proof.cost("publish", messages=1, confirms=1)


async def test_what_follows_a_message_has_its_correlation_id_trace_and_tenant(
    broker_server: AnyBroker,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    queue: RabbitQueue,
) -> None:
    sent = RabbitQueue(broker_server.name("log"), routing_key="mail.sent.*")
    got = collect(broker, sent, exchange)
    own: list[Outgoing] = []

    @broker.subscriber(queue, exchange)
    async def mail(message: RabbitMessage) -> None:
        mailed = Outgoing(
            body=b"{}",
            message_id="m2",
            exchange=exchange,
            routing_key="mail.sent.acme",
            headers={"tenant": "globex"},
        )
        await publish_confirmed(broker, mailed.following(message))
        own.append(replace(mailed, correlation_id="own").following(message))
        message.headers |= {"tracestate": "s" * 512, "traceparent": "p" * 513}
        own.append(mailed.following(message))

    first = Outgoing(
        body=b"{}",
        message_id="m1",
        exchange=exchange,
        routing_key="voicemail.left.acme",
        correlation_id="request-1",
        headers={**CONTEXT, "x-secret": "canary"},
    )
    async with broker_server.running(broker), time_limit():
        await publish_confirmed(broker, first)
        arrived = await got.get()
    assert (arrived.message_id, arrived.correlation_id) == ("m2", "request-1")
    assert arrived.headers == {**CONTEXT, "tenant": "globex"}
    assert [one.correlation_id for one in own] == ["own", "request-1"]
    assert own[1].headers == {"tracestate": "s" * 512, "tenant": "globex"}


async def test_a_message_that_no_queue_takes_raises_at_its_publisher(
    broker_server: AnyBroker,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    queue: RabbitQueue,
    proof: Proof,
) -> None:
    got = collect(broker, queue, exchange)
    nobody = Outgoing(
        body=b"{}", message_id="m1", exchange=exchange, routing_key="nobody.wants.acme"
    )
    plain: type[Exception] = SubscriberNotFound
    if isinstance(broker_server, RealBrokerServer):
        plain = ClientPublishError
    async with broker_server.running(broker), time_limit():
        with pytest.raises(UnroutableError, match="m1"):
            await publish_confirmed(broker, nobody)
        with pytest.raises(plain) as caught:
            await broker.publish(b"{}", exchange=exchange, routing_key="nobody")
        await publish_confirmed(broker, left("m2", exchange))
        assert (await got.get()).message_id == "m2"
    proof.differs(
        "`publish` of a message that no queue takes",
        f"Raises `{type(caught.value).__name__}` of "
        + ("FastStream" if plain is SubscriberNotFound else "its client, aio-pika"),
    )


async def test_the_naive_publish_returns_though_the_message_is_nowhere(
    broker_server: AnyBroker, exchange: RabbitExchange, proof: Proof
) -> None:
    broker = rabbit_broker_naive.make_broker(broker_server.url)
    queue = rabbit_broker_naive.make_queue(broker_server.name("q"), "voicemail.left.*")
    got = collect(broker, queue, exchange)
    title = "The naive publish of a message that no queue takes"
    async with broker_server.running(broker), time_limit():
        if isinstance(broker_server, RealBrokerServer):
            await rabbit_broker_naive.publish(broker, exchange, "voicemail.lost", {})
            await rabbit_broker_naive.publish(broker, exchange, "voicemail.left.x", {})
            assert (await got.get()).raw_message.routing_key == "voicemail.left.x"
            assert await broker_server.depth(queue.name) == 0
            proof.breaks(
                "It publishes under a routing key that no queue is bound to",
                "The call returns as if all were well, and the message is nowhere",
            )
            proof.differs(title, "Returns, and the message is nowhere")
        else:
            with pytest.raises(SubscriberNotFound):
                await rabbit_broker_naive.publish(
                    broker, exchange, "voicemail.lost", {}
                )
            proof.differs(title, "Raises, so a unit test says that nothing can be lost")
    assert got.empty()


@pytest.mark.parametrize("keys", [("nobody", "known"), ("known", "nobody")])
async def test_of_two_messages_of_one_id_at_once_the_one_that_no_queue_takes_raises(
    broker_server: AnyBroker, broker: RabbitBroker, keys: tuple[str, str]
) -> None:
    known = RabbitQueue(broker_server.name("known"))
    got = collect(broker, known)
    names = {"known": known.name, "nobody": broker_server.name("nobody")}

    async def publish(key: str) -> None:
        message = Outgoing(body=b"{}", message_id="m1", routing_key=names[key])
        await publish_confirmed(broker, message)

    async with broker_server.running(broker), time_limit():
        results = await asyncio.gather(*map(publish, keys), return_exceptions=True)
        assert (await got.get()).message_id == "m1"
    raised = {key: type(one) for key, one in zip(keys, results, strict=True)}
    assert raised == {"known": type(None), "nobody": UnroutableError}


async def test_a_handler_may_publish_under_the_id_that_it_is_given(
    broker_server: AnyBroker, broker: RabbitBroker
) -> None:
    first, second = (RabbitQueue(broker_server.name(one)) for one in ("one", "two"))
    got = collect(broker, second)

    @broker.subscriber(first)
    async def pass_on(message: RabbitMessage) -> None:
        onward = Outgoing(
            body=b"{}", message_id=message.message_id, routing_key=second.name
        )
        await publish_confirmed(broker, onward)

    async with broker_server.running(broker), time_limit():
        message = Outgoing(body=b"{}", message_id="m1", routing_key=first.name)
        await publish_confirmed(broker, message)
        assert (await got.get()).message_id == "m1"


@pytest.mark.parametrize("reply_to", ["another", "nobody"])
async def test_no_publisher_can_have_a_result_sent_to_a_queue_of_its_choice(
    broker_server: AnyBroker, reply_to: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker(broker_server.url, prefetch=1)
    queue, another = (broker_server.name(one) for one in ("mailer", "another"))
    got, handled = collect(broker, another), asyncio.Queue[str]()

    @broker.subscriber(queue)
    async def handle(message: RabbitMessage) -> str:
        await handled.put(message.message_id)
        return "secret"

    asking = Outgoing(
        body=b"{}",
        message_id="m1",
        routing_key=queue,
        reply_to=broker_server.name(reply_to),
    )
    async with broker_server.running(broker), time_limit():
        await publish_confirmed(broker, asking)
        await publish_confirmed(broker, replace(asking, message_id="m2", reply_to=None))
        assert [await handled.get() for _ in range(2)] == ["m1", "m2"]
        plain = Outgoing(body=b"{}", message_id="m3", routing_key=another)
        await publish_confirmed(broker, plain)
        assert (await got.get()).message_id == "m3"
    assert all(one.levelno < logging.ERROR for one in caplog.records)


@pytest.mark.backends("rabbitmq")
async def test_a_message_that_the_broker_refuses_raises_at_its_publisher(
    rabbitmq: RealBrokerServer,
) -> None:
    broker = make_broker(rabbitmq.url)
    full = RabbitQueue(
        rabbitmq.name("full"),
        arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
    )
    message = Outgoing(body=b"{}", message_id="m1", routing_key=full.name)
    async with rabbitmq.running(broker), time_limit():
        await broker.declare_queue(full)
        await publish_confirmed(broker, message)
        with pytest.raises(UnconfirmedError, match="m1"):
            await publish_confirmed(broker, message)
        assert await rabbitmq.depth(full.name) == 1


@pytest.mark.backends("rabbitmq")
async def test_a_missing_exchange_has_what_is_being_handled_delivered_again(
    rabbitmq: RealBrokerServer,
) -> None:
    """All share the channel that RabbitMQ closes, but for who has one of its own."""
    broker = make_broker(rabbitmq.url)
    shared, apart = (rabbitmq.name(one) for one in ("shared", "apart"))
    deliveries: asyncio.Queue[tuple[str, bool | None]] = asyncio.Queue()
    go = asyncio.Event()

    def subscribe(queue: str, channel: Channel | None) -> None:
        @broker.subscriber(queue, channel=channel)
        async def handle(message: RabbitMessage) -> None:
            await deliveries.put((queue, message.raw_message.redelivered))
            await go.wait()

    subscribe(shared, None)
    subscribe(apart, Channel(prefetch_count=2))
    async with rabbitmq.running(broker), time_limit():
        for queue in (shared, apart):
            message = Outgoing(body=b"{}", message_id="m1", routing_key=queue)
            await publish_confirmed(broker, message)
            assert await deliveries.get() == (queue, False)
        with pytest.raises(UnconfirmedError):
            await publish_confirmed(broker, left(exchange=rabbitmq.name("none")))
        assert await deliveries.get() == (shared, True)
        go.set()
    assert deliveries.empty()
    for queue in (shared, apart):
        assert await rabbitmq.depth(queue) == 0


@pytest.mark.backends("rabbitmq")
async def test_a_missing_exchange_raises_and_the_next_publish_works(
    rabbitmq: RealBrokerServer,
) -> None:
    broker = make_broker(rabbitmq.url)
    queue = rabbitmq.name("q")
    got = collect(broker, queue)
    lost = Outgoing(
        body=b"{}", message_id="m1", exchange=rabbitmq.name("none"), routing_key=queue
    )
    async with rabbitmq.running(broker), time_limit():
        with pytest.raises(UnconfirmedError, match="m1"):
            await publish_confirmed(broker, lost)
        found = Outgoing(body=b"{}", message_id="m2", routing_key=queue)
        while True:  # the channel is opened anew
            try:
                await publish_confirmed(broker, found)
                break
            except UnconfirmedError:
                await asyncio.sleep(0)
        assert (await got.get()).message_id == "m2"


async def test_what_a_handler_raises_is_not_taken_for_a_failed_publish(
    broker_server: AnyBroker,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    queue: RabbitQueue,
    proof: Proof,
) -> None:
    handled = asyncio.Event()

    @broker.subscriber(queue, exchange)
    async def fail() -> None:
        handled.set()
        raise TimeoutError("the mail server is slow")

    title = "A handler that raises"
    async with broker_server.running(broker), time_limit():
        if isinstance(broker_server, RealBrokerServer):
            await publish_confirmed(broker, left("m1", exchange))
            await handled.wait()
            proof.differs(title, "The publisher has returned, and learns nothing")
        else:
            with pytest.raises(TimeoutError, match="the mail server is slow"):
                await publish_confirmed(broker, left("m1", exchange))
            proof.differs(title, "The publisher is given the exception")
    assert handled.is_set()


async def test_no_more_messages_are_handled_at_once_than_were_prefetched(
    broker_server: AnyBroker,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    queue: RabbitQueue,
    proof: Proof,
) -> None:
    running, most, done, go = 0, 0, 0, asyncio.Event()
    full, finished = asyncio.Event(), asyncio.Event()
    is_real = isinstance(broker_server, RealBrokerServer)
    bound = 2 if is_real else 6

    @broker.subscriber(queue, exchange)
    async def handle() -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        if running == bound:
            full.set()
        await go.wait()
        running -= 1
        done += 1
        if done == 6:
            finished.set()

    async with broker_server.running(broker), time_limit(), asyncio.TaskGroup() as all_:
        for number in range(6):
            all_.create_task(publish_confirmed(broker, left(str(number), exchange)))
        await full.wait()
        if isinstance(broker_server, RealBrokerServer):
            await broker_server.wait_for_depth(queue.name, 4)
        go.set()
        await finished.wait()
    assert most == bound
    behaviour = "At most 2 are handled at once" if is_real else "All 6 are at once"
    proof.differs("6 messages for a consumer that prefetches 2", behaviour)


@pytest.mark.backends("rabbitmq")
async def test_each_subscriber_may_handle_as_many_messages_as_were_prefetched(
    rabbitmq: RealBrokerServer, broker: RabbitBroker
) -> None:
    running, full, go = 0, asyncio.Event(), asyncio.Event()
    queues = [rabbitmq.name(one) for one in ("mailer", "lamps")]

    async def handle() -> None:
        nonlocal running
        running += 1
        if running == 4:
            full.set()
        await go.wait()

    for queue in queues:
        broker.subscriber(queue)(handle)
    async with rabbitmq.running(broker), time_limit():
        for queue in queues:
            for number in range(3):
                message = Outgoing(
                    body=b"{}", message_id=str(number), routing_key=queue
                )
                await publish_confirmed(broker, message)
        await full.wait()
        for queue in queues:
            await rabbitmq.wait_for_depth(queue, 1)
        assert running == 4
        go.set()


@pytest.mark.parametrize("is_started", [False, True])
async def test_a_broker_that_does_not_run_has_not_confirmed_anything(
    broker_server: AnyBroker, *, is_started: bool
) -> None:
    broker = make_broker(broker_server.url)
    if is_started:
        async with broker_server.running(broker):
            pass
    with pytest.raises(UnconfirmedError, match="m1"):
        await publish_confirmed(broker, left())


async def test_two_types_of_event_on_two_queues_do_not_compete(
    broker_server: AnyBroker, broker: RabbitBroker, exchange: RabbitExchange
) -> None:
    got = {
        kind: collect(
            broker,
            RabbitQueue(
                broker_server.name(f"mailer.{kind}"), routing_key=f"voicemail.{kind}.*"
            ),
            exchange,
        )
        for kind in ("left", "deleted")
    }
    async with broker_server.running(broker), time_limit():
        for number in range(4):
            kind = "left" if number % 2 else "deleted"
            key = f"voicemail.{kind}.acme"
            message = Outgoing(
                body=b"{}", message_id=str(number), exchange=exchange, routing_key=key
            )
            await publish_confirmed(broker, message)
        left = [(await got["left"].get()).message_id for _ in range(2)]
        deleted = [(await got["deleted"].get()).message_id for _ in range(2)]
    assert (left, deleted) == (["1", "3"], ["0", "2"])


async def test_two_subscribers_of_one_queue(
    broker_server: AnyBroker,
    broker: RabbitBroker,
    exchange: RabbitExchange,
    queue: RabbitQueue,
    proof: Proof,
) -> None:
    first, second = (collect(broker, queue, exchange) for _ in range(2))
    async with broker_server.running(broker), time_limit():
        for number in range(4):
            await publish_confirmed(broker, left(str(number), exchange))
        if isinstance(broker_server, RealBrokerServer):
            ids = [(await one.get()).message_id for one in (first, second) * 2]
            behaviour = "Each message goes to one of them, in turn"
            assert sorted(ids) == ["0", "1", "2", "3"]
        else:
            assert first.qsize() == second.qsize() == 4
            behaviour = "Each message goes to both"
    assert first.qsize() == second.qsize()
    proof.differs("Two subscribers of one queue", behaviour)


async def test_a_queue_that_is_there_with_other_arguments_stops_the_start(
    broker_server: AnyBroker, proof: Proof
) -> None:
    name = broker_server.name("mailer")
    first, second = (make_broker(broker_server.url) for _ in range(2))
    collect(first, RabbitQueue(name, arguments={"x-message-ttl": 1000}))
    got = collect(second, RabbitQueue(name, arguments={"x-message-ttl": 2000}))
    title = "A queue that is there already, with another time to live"
    async with broker_server.running(first), time_limit():
        if isinstance(broker_server, RealBrokerServer):
            with pytest.raises(
                Exception, match="inequivalent arg 'x-message-ttl'"
            ) as no:
                async with broker_server.running(second):
                    pytest.fail("it started")
            assert name in str(no.value)
            proof.differs(title, "`start` raises and names the queue and the argument")
        else:
            async with broker_server.running(second):
                await second.publish("", name)
            assert got.qsize() == 1
            proof.differs(title, "`start` does not notice")


@pytest.mark.backends("rabbitmq")
async def test_a_broker_has_one_connection_and_one_channel(
    rabbitmq: RealBrokerServer, proof: Proof
) -> None:
    broker = make_broker(rabbitmq.url)
    queues = [rabbitmq.name(str(number)) for number in range(3)]
    for queue in queues:
        collect(broker, queue)
    async with rabbitmq.running(broker), time_limit():
        for queue in queues:
            message = Outgoing(body=b"{}", message_id="m1", routing_key=queue)
            await publish_confirmed(broker, message)
        transport = (await broker.connect()).transport
        assert transport is not None
        assert list(transport.connection.channels) == [1]
    proof.cost("broker with three subscribers", connections=1, channels=1)


async def test_the_naive_event_that_is_published_again_is_another_message(
    broker_server: AnyBroker, exchange: RabbitExchange, proof: Proof
) -> None:
    broker = rabbit_broker_naive.make_broker(broker_server.url)
    queue = rabbit_broker_naive.make_queue(broker_server.name("q"), "voicemail.left.*")
    got = collect(broker, queue, exchange)
    async with broker_server.running(broker), time_limit():
        for _ in range(2):
            await rabbit_broker_naive.publish(broker, exchange, "voicemail.left.x", {})
        first, second = [(await got.get()).message_id for _ in range(2)]
    assert first != second
    proof.breaks(
        "An event is published again, because the first answer was lost",
        "The two have different ids, so no consumer can tell that they are one",
    )
