"""Store a value as JSON so that what is read equals it in value and in type.

`Codec` is built from the declared type. Writing proves the round trip: the bytes are
decoded again and compared, and a value that would come back as another value or as
another type is refused with `CodecError` before anything is stored. Reading validates:
bytes that are not a value of the declared type raise `CodecError`. Nothing is pickled,
so bytes from a stranger can at worst be refused. No error text contains a value.

A datetime keeps its offset from UTC but cannot keep the rules of a named zone, so an
aware datetime must have a fixed offset; convert it to UTC. All fields of a model are
stored, so all count as set when it comes back: `exclude_unset` then excludes none.
"""

from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime, time
from enum import Enum
from types import GenericAlias, SimpleNamespace, UnionType
from typing import Any, Generic, Self, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

T = TypeVar("T")


class CodecError(ValueError):
    """The value cannot be stored without loss, or the bytes are not such a value."""


class Codec(Generic[T]):
    """JSON for values of one declared type.

    Raises `TypeError` for a type that has no schema, for one whose values can be read
    only once, and for an ORM class wherever it is nested: an object that belongs to a
    session cannot come back from a cache.
    """

    def __init__(self, kind: type[T] | UnionType) -> None:
        """Build the schema, once."""
        self._name = kind.__qualname__ if isinstance(kind, type) else str(kind)
        # A tuple of one, because a model alone would not take the configuration.
        alone: Any = GenericAlias(tuple, (kind,))
        as_text = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        try:
            self._adapter: TypeAdapter[tuple[T]] = TypeAdapter(alone, config=as_text)
        except PydanticUserError as error:
            raise TypeError(f"{self._name} cannot be stored: return a DTO") from error
        self._read = self._adapter.validator.validate_json  # which every hit calls
        for part in _parts(self._adapter.core_schema):
            if hasattr(cls := part.get("cls", object), "__mapper__"):
                raise TypeError(f"{cls.__qualname__} is an ORM class: return a DTO")
            if part.get("type") == "generator":
                raise TypeError(f"{self._name} can be read only once: return a list")

    @classmethod
    def of_result(cls, function: Callable[..., Coroutine[Any, Any, T]]) -> Self:
        """Return the codec for what `function` is annotated to return.

        Raises `TypeError` if the annotation is missing or not there at run time.
        """
        try:
            alone = SimpleNamespace(
                __annotations__={"return": function.__annotations__["return"]}
            )
            names = function.__globals__
            hints = get_type_hints(alone, names, include_extras=True)
            return cls(hints["return"])
        except (KeyError, NameError) as error:
            name = function.__qualname__
            message = f"{name}: annotate what it returns with a type that is imported"
            raise TypeError(message) from error

    def encode(self, value: T) -> bytes:
        """Return the JSON of `value`, or raise `CodecError` if reading would differ.

        Costs an encoding, a decoding and a comparison.
        """
        # No error is chained, because its text may quote the value. What a model's own
        # validators and serializers raise can be anything.
        with suppress(Exception):
            typed = _typed(value)  # before an iterator in it could be used up
            payload = self._adapter.dump_json(
                (value,), by_alias=False, round_trip=True, warnings=False
            )
            stored = self.decode(payload)
            if stored == value and _typed(stored) == typed:
                return payload
        kind = type(value).__qualname__
        raise CodecError(f"this {kind} would come back changed as {self._name}")

    def decode(self, payload: bytes | str) -> T:
        """Return the value, a new object each time, or raise `CodecError`."""
        with suppress(Exception):
            alone: tuple[T] = self._read(payload, by_alias=False, by_name=True)
            return alone[0]
        raise CodecError(f"the stored bytes are not a {self._name}")


def _typed(value: object) -> object:
    """Return the value with the type of each part, to tell 1, True and 1.0 apart."""
    kind = type(value)
    if isinstance(value, BaseModel):
        value = dict(value)
    elif is_dataclass(value):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, dict):
        pairs = tuple((_typed(key), _typed(item)) for key, item in value.items())
        return kind, getattr(value, "default_factory", None), pairs
    if isinstance(value, list | tuple | deque):
        items = tuple(_typed(item) for item in value)
        return kind, getattr(value, "maxlen", None), items
    if isinstance(value, set | frozenset):
        return kind, frozenset(_typed(item) for item in value)
    is_whole = isinstance(value, str | bytes | Enum)
    if isinstance(value, Collection | Iterator) and not is_whole:
        raise CodecError(f"the parts of a {kind.__qualname__} cannot be compared")
    if isinstance(value, datetime | time):
        offset = value.tzinfo and value.tzinfo.utcoffset(None)
        return kind, value, offset, value.fold
    return kind, value


def _parts(schema: object) -> Iterator[dict[str, Any]]:
    """Yield every dictionary of a pydantic schema."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from _parts(part)
