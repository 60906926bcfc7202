"""The key that an event is published with reaches the queues that are bound for it."""

from collections.abc import Callable

from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue

from catalogue.plugin import Proof
from snippets.messaging.events import EventData, EventRegistry
from tests.support.rabbitmq import AnyBroker, RealBrokerServer


class Left(EventData):
    """Somebody left a voicemail."""

    seconds: int


def keys() -> dict[str, str]:
    """Return the routing key of an event of each type and tenant."""
    found = {}
    for event_type in ("voicemail.left", "voicemail.deleted", "user.created"):
        registry = EventRegistry()
        registry.register(event_type)(Left)
        for tenant in ("acme", "globex"):
            event = registry.new(Left(seconds=3), tenant=tenant, correlation_id="c")
            found[f"{event_type} of {tenant}"] = event.routing_key
    return found


BINDINGS = {
    "voicemail.left.*": ["voicemail.left of acme", "voicemail.left of globex"],
    "voicemail.*.acme": ["voicemail.deleted of acme", "voicemail.left of acme"],
    "*.*.globex": [
        "user.created of globex",
        "voicemail.deleted of globex",
        "voicemail.left of globex",
    ],
    "user.created.acme": ["user.created of acme"],
    "#": sorted(keys()),
    "voicemail.*": [],  # a star is one word, and an event has two more
    "user.created": [],
}


async def received(
    server: AnyBroker, bindings: list[str], keys: list[str]
) -> dict[str, list[str]]:
    """Publish under each key, and return the keys that each binding was given."""
    exchange = RabbitExchange(server.name("events"), type=ExchangeType.TOPIC)
    queues = {
        binding: RabbitQueue(server.name(str(number)), routing_key=binding)
        for number, binding in enumerate(bindings)
    }
    if isinstance(server, RealBrokerServer):
        return await received_on_rabbitmq(server, exchange, queues, keys)
    got: dict[str, list[str]] = {binding: [] for binding in bindings}
    broker = RabbitBroker(logger=None)
    for binding, queue in queues.items():
        broker.subscriber(queue, exchange)(appending(got[binding]))
    async with server.running(broker):
        for key in keys:
            await broker.publish(key, routing_key=key, exchange=exchange)
    return got


def appending(got: list[str]) -> Callable[[str], None]:
    """Return a handler that appends the body."""

    def append(body: str) -> None:
        got.append(body)

    return append


async def received_on_rabbitmq(
    server: RealBrokerServer,
    exchange: RabbitExchange,
    queues: dict[str, RabbitQueue],
    keys: list[str],
) -> dict[str, list[str]]:
    """Publish with confirms, so that each message is in its queues, and look there."""
    got: dict[str, list[str]] = {binding: [] for binding in queues}
    broker = RabbitBroker(server.url, logger=None)
    async with server.running(broker):
        declared = await broker.declare_exchange(exchange)
        for binding, queue in queues.items():
            await (await broker.declare_queue(queue)).bind(declared, binding)
        for key in keys:
            await broker.publish(key, routing_key=key, exchange=exchange)
        for binding, queue in queues.items():
            waiting = await broker.declare_queue(queue)
            while message := await waiting.get(no_ack=True, fail=False):
                got[binding].append(message.body.decode())
    return got


async def test_each_binding_is_given_the_events_that_it_names(
    broker_server: AnyBroker,
) -> None:
    names = {key: name for name, key in keys().items()}
    got = await received(broker_server, list(BINDINGS), list(names))
    found = {one: sorted(names[key] for key in got[one]) for one in BINDINGS}
    assert found == BINDINGS


async def test_a_binding_that_ends_in_a_hash_and_a_key_that_ends_before_it(
    broker_server: AnyBroker, proof: Proof
) -> None:
    got = await received(broker_server, ["user.#", "#"], ["user"])
    assert got["#"] == ["user"]
    if isinstance(broker_server, RealBrokerServer):
        assert got["user.#"] == ["user"]
        behaviour = "The key `user` matches it: `#` stands for no word too"
    else:
        assert got["user.#"] == []
        behaviour = "The key `user` does not match it"
    proof.differs("The binding `user.#`", behaviour)
