"""Write events that say themselves what happened, and read those of other versions.

An event has its type and version in its body, so no consumer guesses its class. Neither
it nor what is in it can be changed. Producers refuse fields that the class has not, and
consumers ignore them. Data of older versions is brought up to date step by step.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID, uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

D = TypeVar("D")
Fields = dict[str, Any]
Envelope = type["DomainEvent[Any]"]
Step = Callable[[Fields], Fields]

TYPE = r"^[a-z][a-z0-9_]{0,49}\.[a-z][a-z0-9_]{0,49}$"
WORD = r"^[A-Za-z0-9_-]{1,128}$"  # of a routing key: neither a dot nor a wildcard


class EventError(ValueError):
    """The body is no event that this registry can read; no value is quoted."""


class UnknownEventError(EventError):
    """The event is of a type that is not registered, or of a newer version."""


class EventData(BaseModel):
    """What happened: subclass it, and register the subclass."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    def model_post_init(self, _: object) -> None:
        """Raise `TypeError` for a list, dict or set, which could be changed."""
        hash(self)


class DomainEvent(BaseModel, Generic[D]):
    """What happened, when, for which tenant, and because of what."""

    model_config = EventData.model_config

    event_id: UUID
    event_type: Annotated[str, Field(pattern=TYPE)]
    version: Annotated[int, Field(ge=1, strict=True)]
    occurred_at: AwareDatetime
    correlation_id: Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
    causation_id: UUID | None
    tenant: Annotated[str, Field(pattern=WORD)]
    data: D

    @property
    def routing_key(self) -> str:
        """Two words for the type and one for the tenant, 230 bytes at most."""
        return f"{self.event_type}.{self.tenant}"

    def encode(self) -> bytes:
        """Return the body of a message, in JSON."""
        return self.model_dump_json().encode()


@dataclass
class EventRegistry:
    """The events that a service knows; `now` and `new_id` are for tests."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    new_id: Callable[[], UUID] = uuid4
    _steps: dict[tuple[str, int], Step] = field(default_factory=dict, init=False)
    _types: dict[str, tuple[int, Envelope]] = field(default_factory=dict, init=False)
    _names: dict[type, str] = field(default_factory=dict, init=False)

    def upcaster(self, event_type: str, from_version: int) -> Callable[[Step], Step]:
        """Make a function of JSON fields the step from this version to the next."""

        def add(step: Step) -> Step:
            if self._steps.setdefault((event_type, from_version), step) is not step:
                raise ValueError(f"{event_type} has a step from {from_version}")
            return step

        return add

    def register(
        self, event_type: str, version: int = 1
    ) -> Callable[[type[D]], type[D]]:
        """Make a subclass of `EventData` the data of an event, after its upcasters.

        Raises `ValueError` if an older version has none, or type or class are taken.
        """
        missing = {(event_type, one) for one in range(1, version)} - self._steps.keys()
        if missing or event_type in self._types:
            raise ValueError(f"{event_type} is taken, or lacks {sorted(missing)}")

        def register(model: type[D]) -> type[D]:
            if self._names.setdefault(model, event_type) != event_type:
                raise ValueError(f"{model.__name__} is {self._names[model]}")
            envelope: Any = DomainEvent.__class_getitem__(model)
            self._types[event_type] = version, envelope
            return model

        return register

    def new(
        self, data: D, *, tenant: str, correlation_id: str, cause: UUID | None = None
    ) -> DomainEvent[D]:
        """Return the event that this happened; raise `KeyError` for unknown data."""
        event_type = self._names[type(data)]
        version, envelope = self._types[event_type]
        return envelope(
            event_id=self.new_id(),
            event_type=event_type,
            version=version,
            occurred_at=self.now(),
            correlation_id=correlation_id,
            causation_id=cause,
            tenant=tenant,
            data=data,
        )

    def follow(self, cause: DomainEvent[Any], data: D) -> DomainEvent[D]:
        """Return the event that this happened because of another event."""
        same = {"tenant": cause.tenant, "correlation_id": cause.correlation_id}
        return self.new(data, cause=cause.event_id, **same)

    def decode(self, body: bytes) -> DomainEvent[Any]:
        """Return the event in its newest version, or raise `EventError`."""
        try:
            return self._decode(body)
        except UnknownEventError:
            raise
        except Exception as error:
            raise EventError(f"no event: {type(error).__name__}") from error

    def _decode(self, body: bytes) -> DomainEvent[Any]:
        found = DomainEvent[Fields].model_validate_json(body, extra="ignore")
        version, envelope = self._types.get(found.event_type, (0, DomainEvent))
        if found.version > version:
            raise UnknownEventError("unknown type of event, or a newer version")
        data = found.data
        for old in range(found.version, version):
            data = self._steps[found.event_type, old](data)
        fields = found.model_dump(mode="json") | {"version": version, "data": data}
        return envelope.model_validate_json(json.dumps(fields), extra="ignore")
