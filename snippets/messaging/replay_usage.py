"""An operator looks at the mailer's dead letters, and chooses some."""

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
from snippets.messaging.replay import DeadLetter, read


def was_a_bug(letter: DeadLetter) -> bool:
    """Choose what failed by the error that is mended now."""
    return (letter.last_error or "").startswith("KeyError")


async def main() -> None:
    """Read what is in the dead-letter queue of the in-memory broker."""
    events = RabbitExchange("events", type=ExchangeType.TOPIC)
    broker = make_broker("amqp://guest:guest@localhost/")
    topology = Topology("mailer", RetryPolicy(retry_on=(ConnectionError,)))
    router = RabbitRouter(middlewares=[set_aside(broker, topology)])
    addresses, mailed = {"1001": "ada@acme.example"}, []

    @router.subscriber(topology.work("voicemail.left.*"), events)
    async def mail(message: RabbitMessage) -> None:
        mailed.append(addresses[message.body.decode()])

    broker.include_router(router)

    @broker.subscriber(topology.dead(), topology.exchange("dead"))
    async def look(message: RabbitMessage) -> None:
        letter = read(topology, message.raw_message)
        print(letter.message_id, letter.exchange, letter.routing_key, letter.attempts)
        # > event-1 events voicemail.left.acme 1
        print(letter.reason, was_a_bug(letter))
        # > error True

    left = Outgoing(
        body=b"9999",
        message_id="event-1",
        exchange=events,
        routing_key="voicemail.left.acme",
    )
    async with TestRabbitBroker(broker):
        await publish_confirmed(broker, left)

    # On RabbitMQ: await replay(broker, topology, limit=100, wanted=was_a_bug)


if __name__ == "__main__":
    asyncio.run(main())
