"""Events, their bus and the dead letters, together on RabbitMQ."""

import asyncio

import pytest
from faststream.rabbit import RabbitMessage

from snippets.messaging.dead_letters import RetryPolicy
from snippets.messaging.event_bus import EventBus
from snippets.messaging.events import DomainEvent, EventData, EventRegistry
from snippets.messaging.replay import read
from tests.support.dead_letters import Mailer
from tests.support.rabbitmq import RealBrokerServer

pytestmark = pytest.mark.backends("rabbitmq")
POLICY = RetryPolicy(retry_on=(ConnectionError,), delays=(0.05, 0.1))


class Left(EventData):
    """Somebody left a voicemail."""

    seconds: int


@pytest.fixture
def registry() -> EventRegistry:
    """A registry of that event."""
    registry = EventRegistry()
    registry.register("voicemail.left")(Left)
    return registry


async def test_an_unknown_event_is_kept_with_its_reason_and_its_neighbour_handled(
    rabbitmq: RealBrokerServer, registry: EventRegistry
) -> None:
    bus, handled = EventBus(registry), asyncio.Event()

    @bus.on(Left)
    async def handle(_: DomainEvent[Left]) -> None:
        handled.set()

    async def receive(message: RabbitMessage) -> None:
        await bus.receive(message.body)

    mailer = Mailer(rabbitmq, receive, POLICY)
    event = registry.new(Left(seconds=3), tenant="acme", correlation_id="c")
    async with mailer.running():
        newer = event.encode().replace(b'"version":1', b'"version":2')
        await mailer.leave("m1", body=newer)
        await mailer.leave("m2", body=event.encode())
        await handled.wait()
        kept = await rabbitmq.take(mailer.topology.dead().name)
    letter = read(mailer.topology, kept)
    assert (letter.message_id, letter.attempts, letter.reason) == ("m1", 1, "error")
    assert letter.last_error is not None
    assert letter.last_error.startswith("RejectMessage < UnknownEventError")
    assert letter.body == newer


async def test_handlers_whose_errors_are_all_listed_are_run_again(
    rabbitmq: RealBrokerServer, registry: EventRegistry
) -> None:
    bus, done = EventBus(registry), asyncio.Event()
    runs = {"mail": 0, "lamp": 0}

    @bus.on(Left)
    async def mail(_: DomainEvent[Left]) -> None:
        runs["mail"] += 1
        if runs["mail"] < 3:
            raise ConnectionError
        done.set()

    @bus.on(Left)
    async def light(_: DomainEvent[Left]) -> None:
        runs["lamp"] += 1

    async def receive(message: RabbitMessage) -> None:
        await bus.receive(message.body)

    mailer = Mailer(rabbitmq, receive, POLICY)
    event = registry.new(Left(seconds=3), tenant="acme", correlation_id="c")
    async with mailer.running():
        await mailer.leave(body=event.encode())
        await done.wait()
    assert runs == {"mail": 3, "lamp": 3}
    assert await rabbitmq.depth(mailer.topology.dead().name) == 0
