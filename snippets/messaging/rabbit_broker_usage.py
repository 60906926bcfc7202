"""A voicemail is announced to a mailer, and something that nobody asked for is not."""

import asyncio

from faststream.rabbit import (
    ExchangeType,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
    TestRabbitBroker,
)

from snippets.messaging.rabbit_broker import (
    Outgoing,
    UnroutableError,
    make_broker,
    publish_confirmed,
)

EVENTS = "events"


async def main() -> None:
    """Publish on the in-memory broker; with RabbitMQ, start the broker instead."""
    events = RabbitExchange(EVENTS, type=ExchangeType.TOPIC)
    broker = make_broker("amqp://guest:guest@localhost/", prefetch=5)

    @broker.subscriber(RabbitQueue("mailer", routing_key="voicemail.left.*"), events)
    async def mail(message: RabbitMessage) -> None:
        print(message.message_id, message.correlation_id, message.body)
        # > event-1 call-7 b'{"seconds":3}'
        sent = Outgoing(
            body=b"{}",
            message_id="event-2",
            exchange=events,
            routing_key="mail.sent.acme",
        )
        await publish_confirmed(broker, sent.following(message))

    @broker.subscriber(RabbitQueue("log", routing_key="mail.sent.*"), events)
    async def log(message: RabbitMessage) -> None:
        print(message.message_id, message.correlation_id, message.headers)
        # > event-2 call-7 {'tenant': 'acme'}

    left = Outgoing(
        body=b'{"seconds":3}',
        message_id="event-1",
        exchange=events,
        routing_key="voicemail.left.acme",
        correlation_id="call-7",
        headers={"tenant": "acme"},
    )
    nobody = Outgoing(
        body=b"{}",
        message_id="event-3",
        exchange=events,
        routing_key="fax.received.acme",
    )
    async with TestRabbitBroker(broker):
        await publish_confirmed(broker, left)
        try:
            await publish_confirmed(broker, nobody)
        except UnroutableError as error:
            print("no queue takes", error)
            # > no queue takes event-3


if __name__ == "__main__":
    asyncio.run(main())
