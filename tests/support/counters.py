"""Counts of what code really sends: SQL statements, Redis round trips, messages."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, Unpack

import aiormq
import pytest
from faststream.rabbit.testing import FakeProducer
from redis.asyncio.connection import AbstractConnection
from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from faststream.rabbit.response import RabbitPublishCommand
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    PackedCommand = bytes | Iterable[bytes]

TRANSACTION_WORDS = ("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK TO")
SET_UP = {"AUTH", "CLIENT", "HELLO", "SELECT"}
"""What a client sends once per connection."""


@dataclass
class Statements:
    """The SQL statements of an engine while it was watched."""

    texts: list[str] = field(default_factory=list)
    begins: int = 0
    commits: int = 0
    rollbacks: int = 0
    savepoints: int = 0

    @property
    def total(self) -> int:
        """How many statements were sent, leaving out transaction control."""
        return len(self.texts)


@contextmanager
def count_sql(engine: AsyncEngine) -> Iterator[Statements]:
    """Count what `engine` sends inside the block; an executemany counts once."""
    seen = Statements()

    def executed(_: Connection, __: object, statement: str, *___: object) -> None:
        if statement.lstrip().upper().startswith(TRANSACTION_WORDS):
            return
        seen.texts.append(statement)

    def began(_: Connection) -> None:
        seen.begins += 1

    def committed(_: Connection) -> None:
        seen.commits += 1

    def rolled_back(_: Connection) -> None:
        seen.rollbacks += 1

    def saved(*_: object) -> None:
        seen.savepoints += 1

    listeners: dict[str, Callable[..., None]] = {
        "before_cursor_execute": executed,
        "begin": began,
        "commit": committed,
        "rollback": rolled_back,
        "savepoint": saved,
    }
    for name, listener in listeners.items():
        event.listen(engine.sync_engine, name, listener)
    try:
        yield seen
    finally:
        for name, listener in listeners.items():
            event.remove(engine.sync_engine, name, listener)


@dataclass
class RoundTrips:
    """The commands sent to Redis while it was watched; a pipeline is one round trip."""

    trips: list[list[str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many times a client waited for a server."""
        return len(self.trips)

    @property
    def commands(self) -> list[str]:
        """The names of the commands, in order."""
        return [command for trip in self.trips for command in trip]


@contextmanager
def count_round_trips() -> Iterator[RoundTrips]:
    """Count what every Redis client sends inside the block, save connection set-up."""
    seen = RoundTrips()
    send = AbstractConnection.send_packed_command

    async def counted(
        self: AbstractConnection, command: PackedCommand, *rest: bool, **more: bool
    ) -> None:
        packed = command if isinstance(command, bytes) else b"".join(command)
        names = [name for name in _command_names(packed) if name not in SET_UP]
        if names:
            seen.trips.append(names)
        await send(self, command, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", counted)
        yield seen


def _command_names(packed: bytes) -> Iterator[str]:
    """Yield the first argument of each command in RESP's request form.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    position = 0

    def number() -> int:
        nonlocal position
        end = packed.index(b"\r\n", position)
        value = int(packed[position + 1 : end])
        position = end + 2
        return value

    while position < len(packed):
        arguments = []
        for _ in range(number()):
            length = number()
            arguments.append(packed[position : position + length])
            position += length + 2
        yield arguments[0].decode().upper()


class PublishOptions(TypedDict, total=False):
    """The options of a publish that are passed on as they are."""

    properties: aiormq.spec.Basic.Properties | None
    mandatory: bool
    immediate: bool
    timeout: float | None
    wait: bool


@dataclass
class Messages:
    """The messages published while it was watched, by exchange and routing key."""

    published: list[tuple[str, str]] = field(default_factory=list)
    confirmed: int = 0

    @property
    def total(self) -> int:
        """How many messages were published."""
        return len(self.published)


@contextmanager
def count_messages() -> Iterator[Messages]:
    """Count what is published inside the block, to RabbitMQ and in memory.

    The in-memory broker confirms nothing.
    """
    seen = Messages()
    publish, in_memory = aiormq.Channel.basic_publish, FakeProducer.publish

    async def counted(
        self: aiormq.Channel,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        **options: Unpack[PublishOptions],
    ) -> object:
        seen.published.append((exchange, routing_key))
        frame = await publish(
            self, body, exchange=exchange, routing_key=routing_key, **options
        )
        seen.confirmed += isinstance(frame, aiormq.spec.Basic.Ack)
        return frame

    async def counted_in_memory(self: FakeProducer, cmd: RabbitPublishCommand) -> None:
        seen.published.append((cmd.exchange.name, cmd.destination))
        await in_memory(self, cmd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiormq.Channel, "basic_publish", counted)
        patch.setattr(FakeProducer, "publish", counted_in_memory)
        yield seen
