"""A process that takes a message and never finishes with it, for a test to kill."""

import asyncio
import sys

from faststream.rabbit import RabbitBroker, RabbitQueue

from snippets.messaging import rabbit_broker, rabbit_broker_naive

MAKERS = {
    "naive": rabbit_broker_naive.make_broker,
    "pattern": rabbit_broker.make_broker,
}


async def consume(broker: RabbitBroker, queue: str) -> None:
    """Say when a message is being handled, and then wait to be killed."""

    @broker.subscriber(RabbitQueue(queue))
    async def handle() -> None:
        sys.stdout.write("handling\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, maker, url, queue = sys.argv
    asyncio.run(consume(MAKERS[maker](url), queue))
