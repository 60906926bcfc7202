"""A voicemail that cannot be mailed yet, and one that never will be."""

import asyncio

from faststream.rabbit import (
    ExchangeType,
    RabbitExchange,
    RabbitMessage,
    RabbitRouter,
    TestRabbitBroker,
)

from snippets.messaging.dead_letters import RetryPolicy, Topology, set_aside
from snippets.messaging.rabbit_broker import Outgoing, make_broker, publish_confirmed


async def main() -> None:
    """See where each of them goes; with RabbitMQ, the first would come back."""
    events = RabbitExchange("events", type=ExchangeType.TOPIC)
    broker = make_broker("amqp://guest:guest@localhost/")
    policy = RetryPolicy(retry_on=(ConnectionError,), delays=(1, 10, 60))
    topology = Topology("mailer", policy)

    # On RabbitMQ: broker.connect(), declare_topology(broker, topology), broker.start().
    router = RabbitRouter(middlewares=[set_aside(broker, topology)])

    @router.subscriber(topology.work("voicemail.left.*"), events)
    async def mail(message: RabbitMessage) -> None:
        if message.message_id == "event-1":
            raise ConnectionError("the mail server is away")
        raise ValueError("no such extension: 9999")

    broker.include_router(router)

    @broker.subscriber(topology.retry(1), topology.exchange("retry.1"))
    async def wait(message: RabbitMessage) -> None:
        print(message.message_id, "waits after attempt 1")
        # > event-1 waits after attempt 1

    @broker.subscriber(topology.dead(), topology.exchange("dead"))
    async def keep(message: RabbitMessage) -> None:
        error = str(message.headers["x-failed-last-error"]).split(":")[0]
        print(message.message_id, "is kept:", error)
        # > event-2 is kept: ValueError in mail

    async with TestRabbitBroker(broker):
        for message_id in ("event-1", "event-2"):
            left = Outgoing(
                body=b"{}",
                message_id=message_id,
                exchange=events,
                routing_key="voicemail.left.acme",
            )
            await publish_confirmed(broker, left)


if __name__ == "__main__":
    asyncio.run(main())
