"""A broker, a queue and a publish, with what FastStream does unless told otherwise."""

from faststream import AckPolicy
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue


def make_broker(url: str) -> RabbitBroker:
    """Return a broker."""
    return RabbitBroker(url, logger=None, ack_policy=AckPolicy.ACK_FIRST)


def make_queue(name: str, routing_key: str) -> RabbitQueue:
    """Return a queue that cleans up after itself."""
    return RabbitQueue(name, routing_key=routing_key, auto_delete=True)


async def publish(
    broker: RabbitBroker, exchange: RabbitExchange, routing_key: str, event: object
) -> None:
    """Publish an event."""
    await broker.publish(event, exchange=exchange, routing_key=routing_key)
