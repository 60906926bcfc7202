"""A process that consumes and dies, for a test to kill or to be killed by itself."""

import asyncio
import os
import signal
import sys

from faststream.rabbit import RabbitBroker, RabbitQueue, RabbitRouter

from snippets.messaging import rabbit_broker, rabbit_broker_naive
from snippets.messaging.dead_letters import RetryPolicy, Topology, set_aside


def say(what: str) -> None:
    """Tell the test."""
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def never_finishing(broker: RabbitBroker, queue: str) -> None:
    """Have the handler wait to be killed."""

    @broker.subscriber(RabbitQueue(queue))
    async def handle() -> None:
        say("handling")
        await asyncio.Event().wait()


def dying(broker: RabbitBroker, queue: str) -> None:
    """Have each message kill the process, one time more than the broker allows."""
    topology = Topology(queue, RetryPolicy(retry_on=(ConnectionError,), crashes=1))
    router = RabbitRouter(middlewares=[set_aside(broker, topology)])

    @router.subscriber(topology.work())
    async def handle() -> None:
        say("handling")
        os.kill(os.getpid(), signal.SIGKILL)

    broker.include_router(router)


async def main(kind: str, url: str, queue: str) -> None:
    """Consume until killed."""
    naive = kind == "naive"
    maker = rabbit_broker_naive.make_broker if naive else rabbit_broker.make_broker
    broker = maker(url)
    (dying if kind == "dying" else never_finishing)(broker, queue)
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
