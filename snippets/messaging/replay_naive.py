"""Move everything from the dead-letter queue back to where it came from."""

from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue


async def replay(
    broker: RabbitBroker, dead_letters: RabbitQueue, exchange: RabbitExchange
) -> int:
    """Publish each dead letter again; return how many it were."""
    queue = await broker.declare_queue(dead_letters)
    count = 0
    while message := await queue.get(fail=False, no_ack=True):
        await broker.publish(
            message.body,
            exchange=exchange,
            routing_key=message.routing_key or "",
            headers=message.headers,
        )
        count += 1
    return count
