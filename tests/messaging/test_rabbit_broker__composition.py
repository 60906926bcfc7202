"""An event goes through the broker, and is what it was at the other end."""

import asyncio
from typing import Any

from faststream.rabbit import ExchangeType, RabbitExchange, RabbitMessage, RabbitQueue

from snippets.messaging.event_bus import EventBus
from snippets.messaging.events import DomainEvent, EventData, EventRegistry
from snippets.messaging.rabbit_broker import Outgoing, make_broker, publish_confirmed
from tests.support.rabbitmq import AnyBroker


class Left(EventData):
    """Somebody left a voicemail."""

    seconds: int


class Deleted(EventData):
    """Somebody deleted it: a class that the fields of the other would fit."""

    seconds: int = 0


async def test_an_event_is_read_as_the_type_it_was_published_as(
    broker_server: AnyBroker,
) -> None:
    registry = EventRegistry()
    registry.register("voicemail.deleted")(Deleted)
    registry.register("voicemail.left")(Left)
    bus, got = EventBus(registry), asyncio.Queue[DomainEvent[Any]]()
    bus.on(Left)(got.put)
    bus.on(Deleted)(got.put)
    broker = make_broker(broker_server.url)
    exchange = RabbitExchange(broker_server.name("events"), type=ExchangeType.TOPIC)
    queue = RabbitQueue(broker_server.name("lamps"), routing_key="voicemail.*.*")

    @broker.subscriber(queue, exchange)
    async def receive(message: RabbitMessage) -> None:
        await bus.receive(message.body)

    events: list[DomainEvent[Any]] = [
        registry.new(data, tenant="acme", correlation_id="c" * 128)
        for data in (Left(seconds=3), Deleted(seconds=3))
    ]
    async with broker_server.running(broker), asyncio.timeout(20):
        for event in events:
            message = Outgoing(
                body=event.encode(),
                message_id=str(event.event_id),
                exchange=exchange,
                routing_key=event.routing_key,
                correlation_id=event.correlation_id,
                type=event.event_type,
                headers={"tenant": event.tenant},
            )
            await publish_confirmed(broker, message)
        read = [await got.get() for _ in events]
    assert sorted(read, key=str) == sorted(events, key=str)
    assert {type(one.data).__name__ for one in read} == {"Left", "Deleted"}
