"""Two handlers of one voicemail, of which one cannot reach the mail server."""

import asyncio

from faststream.exceptions import RejectMessage

from snippets.messaging.event_bus import EventBus
from snippets.messaging.events import DomainEvent, EventData, EventRegistry


class Voicemail(EventData):
    """Somebody left a voicemail."""

    extension: str
    seconds: int


async def main() -> None:
    """Give an event to both, and an unknown one to nobody."""
    registry = EventRegistry()
    registry.register("voicemail.left")(Voicemail)
    bus = EventBus(registry)
    lamps = set()

    @bus.on(Voicemail)
    async def mail(_: DomainEvent[Voicemail]) -> None:
        raise ConnectionError("the mail server is away")

    @bus.on(Voicemail)
    async def light_lamp(event: DomainEvent[Voicemail]) -> None:
        lamps.add(event.data.extension)

    data = Voicemail(extension="1001", seconds=3)
    event = registry.new(data, tenant="acme", correlation_id="call-7")
    try:
        await bus.receive(event.encode())
    except ExceptionGroup as group:
        print(group.exceptions)
        # > (ConnectionError('the mail server is away'),)
    print("lamps:", sorted(lamps))
    # > lamps: ['1001']

    unknown = event.encode().replace(b"voicemail.left", b"fax.received")
    try:
        await bus.receive(unknown)
    except RejectMessage as error:
        print("parked:", error.__cause__)
        # > parked: unknown type of event, or a newer version
    print(await EventBus(registry, unknown="ignore").receive(unknown))
    # > None


if __name__ == "__main__":
    asyncio.run(main())
