"""Store what a call cost, and see what a codec refuses to store."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from snippets.caching.codec import Codec, CodecError


class Call(BaseModel):
    """A finished telephone call."""

    id: UUID
    began: datetime
    legs: tuple[str, ...]
    cost: Decimal


def main() -> None:
    """Take values there and back."""
    calls = Codec(Call)
    call = Call(
        id=UUID("6f9f8f0a-3f6b-4d0e-9a52-0e6d1a3c5b7e"),
        began=datetime(2026, 11, 22, 9, 30, tzinfo=UTC),
        legs=("1001", "1002"),
        cost=Decimal("0.10"),
    )
    payload = calls.encode(call)
    print(calls.decode(payload) == call, calls.decode(payload).legs)
    # > True ('1001', '1002')
    print(Codec(str).encode("123"), Codec(int).encode(123))
    # > b'["123"]' b'[123]'
    print(Codec(dict[int, bytes]).encode({1001: b"\xff"}))
    # > b'[{"1001":"_w=="}]'

    untyped = Codec(object)
    try:
        untyped.encode(("1001", "1002"))
    except CodecError as error:
        print(error)
        # > this tuple would come back changed as object
    try:
        Codec(datetime).encode(datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/London")))
    except CodecError as error:
        print(error)
        # > this datetime would come back changed as datetime
    try:
        calls.decode(b'["from an older version"]')
    except CodecError as error:
        print(error)
        # > the stored bytes are not a Call


if __name__ == "__main__":
    main()
