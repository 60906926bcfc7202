"""Typed events as a class hierarchy, as written first."""

from typing import ClassVar

from pydantic import BaseModel, ValidationError


class Event(BaseModel):
    """What happened."""

    event_type: ClassVar[str]
    version: ClassVar[int] = 1


class UserDeleted(Event):
    """Somebody's telephone was taken away."""

    event_type = "user.deleted"
    user_id: int


class UserCreated(Event):
    """Somebody got a telephone."""

    event_type = "user.created"
    user_id: int
    extensions: list[str]


def decode(body: bytes) -> Event:
    """Return the event of the first class that fits."""
    for model in UserDeleted, UserCreated:
        try:
            return model.model_validate_json(body)
        except ValidationError:
            continue
    raise ValueError("no such event")
