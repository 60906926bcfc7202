"""Ada's voicemail is announced, and read by a service of another age."""

import asyncio
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from snippets.messaging.events import EventData, EventRegistry, UnknownEventError


class VoicemailV1(EventData):
    """A voicemail as last year's service announces it."""

    extension: str
    minutes: int


class Voicemail(EventData):
    """A voicemail as this year's service knows it."""

    extension: str
    seconds: int


async def main() -> None:
    """Write two events with the old service, and read them with the new one."""
    ids = count(1)
    old = EventRegistry(
        now=lambda: datetime(2026, 11, 27, 12, tzinfo=UTC),
        new_id=lambda: UUID(int=next(ids)),
    )
    old.register("voicemail.left")(VoicemailV1)

    new = EventRegistry()

    @new.upcaster("voicemail.left", 1)
    def seconds(fields: dict[str, Any]) -> dict[str, Any]:
        return {"extension": fields["extension"], "seconds": fields["minutes"] * 60}

    new.register("voicemail.left", version=2)(Voicemail)

    data = VoicemailV1(extension="1001", minutes=2)
    left = old.new(data, tenant="acme", correlation_id="call-7")
    print(left.routing_key)
    # > voicemail.left.acme

    read = new.decode(left.encode())
    print(read.version, repr(read.data))
    # > 2 Voicemail(extension='1001', seconds=120)

    next_one = old.follow(left, VoicemailV1(extension="1002", minutes=1))
    print(next_one.correlation_id, next_one.causation_id == left.event_id)
    # > call-7 True

    try:
        left.data.minutes = 3
    except ValidationError as error:
        print(error.errors()[0]["type"])
        # > frozen_instance

    newer = new.new(read.data, tenant="acme", correlation_id="call-8")
    try:
        old.decode(newer.encode())
    except UnknownEventError as error:
        print(error)
        # > unknown type of event, or a newer version


if __name__ == "__main__":
    asyncio.run(main())
