"""An event can be read by whoever gets it, however old or new it is."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from catalogue.plugin import Proof
from snippets.messaging import events_naive
from snippets.messaging.events import (
    DomainEvent,
    EventData,
    EventError,
    EventRegistry,
    UnknownEventError,
)
from tests.support.counters import count_messages

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Line(Enum):
    """What a number rings."""

    DESK = "desk"
    MOBILE = "mobile"


class Number(EventData):
    """A number, within other data."""

    digits: str
    line: Line = Line.DESK


class UserCreated(EventData):
    """Somebody got a telephone."""

    user_id: UUID
    name: str
    numbers: tuple[Number, ...] = ()


class CallEnded(EventData):
    """Somebody hung up."""

    call_id: UUID
    ended_at: datetime
    cost: Decimal
    lasted: timedelta
    billed_on: date
    line: Line | None


@pytest.fixture
def registry() -> EventRegistry:
    """A registry of both."""
    return registered()


def registered() -> EventRegistry:
    """Return a registry of both."""
    registry = EventRegistry(now=lambda: NOW)
    registry.register("user.created")(UserCreated)
    registry.register("call.ended")(CallEnded)
    return registry


def ada(registry: EventRegistry) -> DomainEvent[UserCreated]:
    """Return the event that Ada got a telephone."""
    data = UserCreated(user_id=UUID(int=7), name="Ada", numbers=(Number(digits="1"),))
    return registry.new(data, tenant="acme", correlation_id="request-1")


def changed(event: DomainEvent[Any], **fields: object) -> bytes:
    """Return the body of an event in which some fields are others."""
    loose: DomainEvent[Any] = event.model_copy(update=fields)
    return loose.model_dump_json(serialize_as_any=True, warnings=False).encode()


def test_the_body_says_what_happened_when_to_whom_and_why(
    registry: EventRegistry,
) -> None:
    event = ada(registry)
    body = DomainEvent[dict[str, object]].model_validate_json(event.encode())
    assert body.model_dump() == {
        "event_id": event.event_id,
        "event_type": "user.created",
        "version": 1,
        "occurred_at": NOW,
        "correlation_id": "request-1",
        "causation_id": None,
        "tenant": "acme",
        "data": {
            "user_id": "00000000-0000-0000-0000-000000000007",
            "name": "Ada",
            "numbers": [{"digits": "1", "line": "desk"}],
        },
    }


def test_what_is_read_equals_what_was_written(registry: EventRegistry) -> None:
    event = ada(registry)
    read = registry.decode(event.encode())
    assert read == event
    assert type(read.data) is UserCreated


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ZONES = st.integers(-839, 839).map(lambda at: timezone(timedelta(minutes=at)))


@given(
    st.builds(
        CallEnded,
        ended_at=st.datetimes(timezones=ZONES),
        cost=st.decimals(allow_nan=False, allow_infinity=False),
        lasted=st.timedeltas(timedelta(days=-999), timedelta(days=999)),
        line=st.sampled_from([None, *Line]),
    )
    | st.builds(UserCreated, name=TEXT, numbers=st.just(()))
)
def test_every_value_survives_json(data: CallEnded | UserCreated) -> None:
    registry = registered()
    event = registry.new(data, tenant="acme", correlation_id="c")
    assert registry.decode(event.encode()) == event


def test_neither_an_event_nor_what_is_in_it_can_be_changed(
    registry: EventRegistry,
) -> None:
    event = ada(registry)
    with pytest.raises(ValidationError, match="frozen"):
        event.version = 2
    with pytest.raises(ValidationError, match="frozen"):
        event.data.name = "Eve"
    with pytest.raises(ValidationError, match="frozen"):
        event.data.numbers[0].digits = "2"


@pytest.mark.parametrize("kind", [list, dict, set, bytearray])
def test_data_that_could_be_changed_within_is_refused(kind: type) -> None:
    class Rung(EventData):
        """A call that rang at several numbers."""

        numbers: Any

    with pytest.raises(TypeError, match="unhashable"):
        Rung(numbers=kind())


def test_a_model_that_is_not_frozen_within_is_refused() -> None:
    class Loose(BaseModel):
        """Can be changed."""

    class Rung(EventData):
        """Holds it."""

        number: Loose

    with pytest.raises(TypeError, match="unhashable"):
        Rung(number=Loose())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_know_is_refused(number: float) -> None:
    class Measured(EventData):
        """How well a line was understood."""

        quality: float

    with pytest.raises(ValidationError, match="finite"):
        Measured(quality=number)


def test_a_producer_may_not_add_fields(registry: EventRegistry) -> None:
    fields = {"user_id": UUID(int=7), "name": "Ada", "shoe_size": 38}
    with pytest.raises(ValidationError, match="extra"):
        UserCreated.model_validate(fields)
    with pytest.raises(ValidationError, match="extra"):
        type(ada(registry)).model_validate(dict(ada(registry)) | {"shard": 3})


def test_a_consumer_ignores_fields_that_it_does_not_know(
    registry: EventRegistry,
) -> None:
    event = ada(registry)
    number = {"digits": "1", "colour": "red"}
    data = {**event.data.model_dump(mode="json"), "numbers": [number], "shoe_size": 38}
    newer = event.encode().replace(b"{", b'{"shard":3,', 1)
    assert registry.decode(newer) == event
    assert registry.decode(changed(event, data=data)) == event


@pytest.mark.parametrize(
    ("tenant", "correlation_id"),
    [
        ("", "c"),
        ("a.b", "c"),
        ("*", "c"),
        ("#", "c"),
        ("a b", "c"),
        ("a\n", "c"),
        ("ä", "c"),
        ("a" * 129, "c"),
        ("acme", ""),
        ("acme", "c" * 129),
        ("acme", "a b"),
        ("acme", "a\r\nb"),
        ("acme", "a\0"),
        ("acme", "c\n"),
        ("acme", "\U0001f600" * 128),
        ("acme", "\ud800"),
    ],
)
def test_what_would_break_a_routing_key_or_a_header_is_refused(
    registry: EventRegistry, tenant: str, correlation_id: str
) -> None:
    data = UserCreated(user_id=uuid4(), name="Ada")
    with pytest.raises(ValidationError):
        registry.new(data, tenant=tenant, correlation_id=correlation_id)


@pytest.mark.parametrize(
    "event_type", ["", "user", "user.", ".created", "user.*", "User.created", "a.b.c"]
)
def test_a_type_is_two_words(event_type: str) -> None:
    registry = EventRegistry()
    registry.register(event_type)(UserCreated)
    with pytest.raises(ValidationError):
        ada(registry)


def test_the_longest_routing_key_is_one_that_the_protocol_takes() -> None:
    registry = EventRegistry()
    registry.register(f"{'a' * 50}.{'b' * 50}")(UserCreated)
    data = UserCreated(user_id=uuid4(), name="Ada")
    event = registry.new(data, tenant="c" * 128, correlation_id="d" * 128)
    assert len(event.routing_key.encode()) == 230
    assert registry.decode(event.encode()) == event


def test_a_naive_time_is_refused() -> None:
    registry = EventRegistry(now=lambda: NOW.replace(tzinfo=None))
    registry.register("user.created")(UserCreated)
    with pytest.raises(ValidationError, match="timezone"):
        ada(registry)


def test_two_hops_name_their_causes_and_share_one_correlation_id(
    registry: EventRegistry,
) -> None:
    created = ada(registry)
    first = registry.follow(created, UserCreated(user_id=uuid4(), name="Grace"))
    second = registry.follow(first, UserCreated(user_id=uuid4(), name="Joan"))
    read = [registry.decode(one.encode()) for one in (created, first, second)]
    assert [one.causation_id for one in read] == [
        None,
        created.event_id,
        first.event_id,
    ]
    assert {one.correlation_id for one in read} == {"request-1"}
    assert {one.tenant for one in read} == {"acme"}
    assert len({one.event_id for one in read}) == 3


class Extension(EventData):
    """An extension as version 3 has it."""

    number: str
    site: str
    rings: tuple[str, ...]


def test_an_old_event_is_brought_up_to_date_step_by_step() -> None:
    first = EventRegistry()

    @first.register("extension.added")
    class Old(EventData):
        """An extension as version 1 had it."""

        extension: str

    registry = EventRegistry()

    @registry.upcaster("extension.added", 1)
    def _site(fields: dict[str, Any]) -> dict[str, Any]:
        site, _, number = fields["extension"].partition("-")
        return {"number": number, "site": site}

    @registry.upcaster("extension.added", 2)
    def _rings(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "rings": ["desk"]}

    registry.register("extension.added", version=3)(Extension)
    old = first.new(Old(extension="berlin-1001"), tenant="acme", correlation_id="c")
    read = registry.decode(old.encode())
    assert read.data == Extension(number="1001", site="berlin", rings=("desk",))
    assert (read.version, read.event_id) == (3, old.event_id)
    assert read.occurred_at == old.occurred_at

    middle = changed(old, version=2, data={"number": "1001", "site": "berlin"})
    assert registry.decode(middle).data == read.data
    assert registry.decode(read.encode()) == read


def test_a_version_without_a_step_to_the_next_is_refused_at_registration() -> None:
    registry = EventRegistry()
    registry.upcaster("extension.added", 1)(dict)
    registry.upcaster("extension.added", 3)(dict)
    with pytest.raises(ValueError, match=r"lacks \[\('extension.added', 2\)\]"):
        registry.register("extension.added", version=4)
    with pytest.raises(ValueError, match=r"lacks \[\('user.created', 1\)\]"):
        registry.register("user.created", version=2)


def test_a_type_is_registered_once(registry: EventRegistry) -> None:
    with pytest.raises(ValueError, match=r"user\.created is taken"):
        registry.register("user.created")


def test_a_class_is_the_data_of_one_type_of_event(registry: EventRegistry) -> None:
    with pytest.raises(ValueError, match=r"UserCreated is user\.created"):
        registry.register("user.added")(UserCreated)
    assert ada(registry).event_type == "user.created"
    with pytest.raises(UnknownEventError):
        registry.decode(changed(ada(registry), event_type="user.added"))


def test_a_step_from_a_version_is_registered_once() -> None:
    registry = EventRegistry()
    registry.upcaster("extension.added", 1)(dict)
    with pytest.raises(ValueError, match=r"extension\.added has a step from 1"):
        registry.upcaster("extension.added", 1)(lambda fields: fields)


def test_data_that_is_not_registered_makes_no_event(registry: EventRegistry) -> None:
    with pytest.raises(KeyError):
        registry.new(Number(digits="1"), tenant="acme", correlation_id="c")


@pytest.mark.parametrize(
    "fields", [{"event_type": "voicemail.left"}, {"version": 2}, {"version": 2**70}]
)
def test_an_unknown_type_and_a_newer_version_are_told_apart_from_rubbish(
    registry: EventRegistry, fields: dict[str, object]
) -> None:
    with pytest.raises(UnknownEventError):
        registry.decode(changed(ada(registry), **fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"event_type": ["user.created"]}',
    ],
)
def test_rubbish_is_an_event_error(registry: EventRegistry, body: bytes) -> None:
    with pytest.raises(EventError):
        registry.decode(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 0},
        {"version": -1},
        {"version": True},
        {"version": "1"},
        {"tenant": "acme.evil"},
        {"occurred_at": "2026-11-27T12:00:00"},
        {"data": {"user_id": "canary-4f1c"}},
        {"data": None},
    ],
)
def test_a_field_that_is_wrong_is_an_event_error(
    registry: EventRegistry, fields: dict[str, object]
) -> None:
    with pytest.raises(EventError) as caught:
        registry.decode(changed(ada(registry), **fields))
    assert type(caught.value) is EventError
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__}"


def test_an_upcaster_that_stumbles_is_an_event_error(registry: EventRegistry) -> None:
    def stumble(fields: dict[str, Any]) -> dict[str, Any]:
        return {"number": fields["canary-4f1c"]}

    registry.upcaster("extension.added", 1)(stumble)
    registry.register("extension.added", version=2)(Extension)
    old = changed(ada(registry), event_type="extension.added")
    with pytest.raises(EventError, match="no event: KeyError"):
        registry.decode(old)


@given(st.binary() | TEXT.map(str.encode))
def test_no_body_makes_decoding_raise_anything_else(body: bytes) -> None:
    with pytest.raises(EventError):
        registered().decode(body)


def test_an_event_costs_no_further_message(
    registry: EventRegistry, proof: Proof
) -> None:
    with count_messages() as seen:
        registry.decode(ada(registry).encode())
    assert seen.total == 0
    proof.cost("envelope", messages=0)


def test_the_naive_event_does_not_say_what_it_is(proof: Proof) -> None:
    created = events_naive.UserCreated(user_id=7, extensions=["1001"])
    body = created.model_dump_json()
    assert "user.created" not in body
    assert "version" not in body
    read = events_naive.decode(body.encode())
    assert isinstance(read, events_naive.UserDeleted)
    proof.breaks(
        "A consumer decodes a created event as the first class that fits",
        "It reads that the user was deleted: the body has neither type nor version",
    )


def test_the_naive_event_can_be_changed_by_whoever_gets_it(proof: Proof) -> None:
    created = events_naive.UserCreated(user_id=7, extensions=["1001"])

    def handler(event: events_naive.UserCreated) -> None:
        event.extensions.clear()

    handler(created)
    assert "1001" not in created.model_dump_json()
    proof.breaks(
        "One handler edits the event before the next one gets it",
        "The next handler sees an event that never happened",
    )
