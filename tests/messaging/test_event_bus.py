"""Every handler gets the event, and nothing that cannot be read comes back for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from faststream import AckPolicy
from faststream.exceptions import RejectMessage
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from faststream.rabbit.annotations import RabbitMessage

from catalogue.plugin import Proof
from snippets.messaging import event_bus_naive
from snippets.messaging.event_bus import EventBus, Policy
from snippets.messaging.events import (
    DomainEvent,
    EventData,
    EventRegistry,
    UnknownEventError,
)
from tests.support.rabbitmq import AnyBroker, RealBrokerServer


class Left(EventData):
    """Somebody left a voicemail."""

    seconds: int


class Deleted(EventData):
    """Somebody deleted it."""


@pytest.fixture
def registry() -> EventRegistry:
    """A registry of both events."""
    registry = EventRegistry()
    registry.register("voicemail.left")(Left)
    registry.register("voicemail.deleted")(Deleted)
    return registry


@pytest.fixture
def event(registry: EventRegistry) -> DomainEvent[Left]:
    """A voicemail of three seconds."""
    return registry.new(Left(seconds=3), tenant="acme", correlation_id="c")


def unknown(event: DomainEvent[Left]) -> bytes:
    """Return the body of an event of the next version."""
    return event.encode().replace(b'"version":1', b'"version":2')


def failing(
    error: BaseException,
) -> Callable[[DomainEvent[Any]], Awaitable[None]]:
    """Return a handler that raises this."""

    async def fail(_: DomainEvent[Any]) -> None:
        raise error

    return fail


async def test_a_handler_that_fails_stops_no_other_and_all_errors_are_told(
    registry: EventRegistry, event: DomainEvent[Left]
) -> None:
    bus, got = EventBus(registry), []
    errors = [RuntimeError("no disk"), TimeoutError("no mail")]
    bus.on(Left)(failing(errors[0]))

    @bus.on(Left)
    async def count(event: DomainEvent[Left]) -> None:
        got.append(event.data.seconds)

    bus.on(Left)(failing(errors[1]))
    with pytest.raises(
        ExceptionGroup, match=r"voicemail\.left was not handled"
    ) as told:
        await bus.receive(event.encode())
    assert got == [3]
    assert list(told.value.exceptions) == errors


async def test_a_handler_that_fails_before_it_can_be_awaited_stops_no_other(
    registry: EventRegistry, event: DomainEvent[Left]
) -> None:
    bus, got = EventBus(registry), []

    async def count(event: DomainEvent[Left]) -> None:
        got.append(event.data.seconds)

    def stumble(_: DomainEvent[Left]) -> Awaitable[None]:
        raise LookupError

    for handler in (count, stumble, count):
        bus.on(Left)(handler)
    with pytest.raises(ExceptionGroup) as told:
        await bus.receive(event.encode())
    assert got == [3, 3]
    assert [type(one) for one in told.value.exceptions] == [LookupError]


async def test_handlers_run_side_by_side(
    registry: EventRegistry, event: DomainEvent[Left]
) -> None:
    bus, both = EventBus(registry), asyncio.Barrier(2)
    for _ in range(2):

        @bus.on(Left)
        async def meet(_: DomainEvent[Left]) -> None:
            await both.wait()

    async with asyncio.timeout(10):
        assert await bus.receive(event.encode()) == event


async def test_a_handler_gets_only_the_events_it_asked_for(
    registry: EventRegistry, event: DomainEvent[Left]
) -> None:
    bus = EventBus(registry)
    bus.on(Deleted)(failing(AssertionError("not mine")))
    assert await bus.receive(event.encode()) == event


async def test_who_is_cancelled_cancels_the_handlers(
    registry: EventRegistry, event: DomainEvent[Left]
) -> None:
    bus, begun, ended = EventBus(registry), asyncio.Event(), asyncio.Event()

    @bus.on(Left)
    async def wait(_: DomainEvent[Left]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    receiving = asyncio.create_task(bus.receive(event.encode()))
    await begun.wait()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert ended.is_set()


async def test_a_cancelled_handler_is_no_success(
    registry: EventRegistry, event: DomainEvent[Left]
) -> None:
    bus = EventBus(registry)
    bus.on(Left)(failing(asyncio.CancelledError()))
    with pytest.raises(BaseExceptionGroup):
        await bus.receive(event.encode())


async def test_an_unknown_event_is_parked_unless_the_policy_says_otherwise(
    registry: EventRegistry, event: DomainEvent[Left]
) -> None:
    with pytest.raises(RejectMessage) as parked:
        await EventBus(registry).receive(unknown(event))
    assert isinstance(parked.value.__cause__, UnknownEventError)
    assert await EventBus(registry, unknown="ignore").receive(unknown(event)) is None
    with pytest.raises(UnknownEventError):
        await EventBus(registry, unknown="fail").receive(unknown(event))


@pytest.mark.parametrize("policy", ["park", "ignore", "fail"])
async def test_rubbish_is_parked_whatever_the_policy(
    registry: EventRegistry, policy: Policy
) -> None:
    with pytest.raises(RejectMessage):
        await EventBus(registry, unknown=policy).receive(b"{}")


@pytest.mark.parametrize("policy", ["park", "fail"])
async def test_an_unknown_event_is_delivered_once_and_its_neighbour_after_it(
    registry: EventRegistry,
    event: DomainEvent[Left],
    broker_server: AnyBroker,
    policy: Policy,
    proof: Proof,
) -> None:
    bus, deliveries, handled = EventBus(registry, unknown=policy), [], asyncio.Event()
    dead = RabbitQueue(broker_server.name("dead"))
    work = RabbitQueue(
        broker_server.name("work"),
        queue_type=QueueType.QUORUM,
        arguments={
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead.name,
        },
    )
    broker = RabbitBroker(
        broker_server.url,
        logger=None,
        ack_policy=AckPolicy.REJECT_ON_ERROR,
        default_channel=Channel(prefetch_count=1),
    )

    @bus.on(Left)
    async def handle(_: DomainEvent[Left]) -> None:
        handled.set()

    @broker.subscriber(work)
    async def consume(message: RabbitMessage) -> None:
        deliveries.append(message.body)
        await bus.receive(message.body)

    async with broker_server.running(broker):
        await broker.declare_queue(dead)
        title = "A message whose handler raises"
        if isinstance(broker_server, RealBrokerServer):
            await broker.publish(unknown(event), work)
            await broker.publish(event.encode(), work)
            async with asyncio.timeout(10):
                await handled.wait()
            assert (await broker_server.take(dead.name)).body == unknown(event)
            assert await broker_server.depth(dead.name) == 0
            if policy == "fail":
                proof.differs(title, "It is in the dead-letter queue")
        else:
            if policy == "fail":
                with pytest.raises(UnknownEventError):
                    await broker.publish(unknown(event), work)
                proof.differs(title, "The publisher is given what the handler raised")
            else:
                await broker.publish(unknown(event), work)
            await broker.publish(event.encode(), work)
            assert handled.is_set()
    assert deliveries == [unknown(event), event.encode()]


async def test_the_naive_bus_stops_at_the_first_handler_that_fails(
    registry: EventRegistry, event: DomainEvent[Left], proof: Proof
) -> None:
    bus, got = event_bus_naive.EventBus(registry), []

    async def count(event: DomainEvent[Any]) -> None:
        got.append(event.data.seconds)

    bus.subscribe(Left, failing(RuntimeError("no disk")))
    bus.subscribe(Left, count)
    with pytest.raises(RuntimeError):
        await bus.receive(event.encode())
    assert got == []
    proof.breaks(
        "The first of two handlers raises", "The second one never sees the event"
    )
    with pytest.raises(UnknownEventError):
        await bus.receive(unknown(event))
    proof.breaks(
        "A newer version arrives while services are being upgraded",
        "The handler's error is all the consumer learns: requeued, it loops; "
        "acknowledged, the event is gone",
    )
