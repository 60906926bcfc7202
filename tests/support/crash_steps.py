"""The steps between any two writes on an event's way, and a crash at one of them.

Run as a process, it changes an extension, relays the event and reads it, and dies at
the step that its command line names.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
from faststream import BaseMiddleware
from faststream.rabbit import RabbitMessage
from faststream.rabbit.message import RabbitMessage as Message
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.database.async_session import create_engine_and_sessions
from snippets.messaging.rabbit_broker import Outgoing, make_broker
from tests.support.outbox import Reader, Service, events, publisher

STATEMENTS = {
    "changed": "UPDATE extensions",
    "enqueued": "INSERT INTO outbox_messages",
    "claiming": "WITH heads",
    "marking": "UPDATE outbox_messages",
    "entered": "INSERT INTO inbox_entries",
    "effected": "UPDATE forwards",
}
"""The steps after a statement and before its commit."""
STEPS = (
    "changed",
    "enqueued",
    "committed",
    "claiming",
    "claimed",
    "published",  # the broker has said so to its client, which has told nobody
    "confirmed",
    "marking",
    "marked",
    "entered",
    "effected",
    "handled",
    "acknowledged",
)
COMMITTED = STEPS[2:]
"""Those before which the change is committed."""
REPEATED = ("published", "confirmed", "marking")
"""Those after which the event is published once more."""
REDELIVERED = ("entered", "effected", "handled")
"""Those after which the broker delivers it once more."""

Publish = Callable[[Outgoing], Awaitable[object]]


class Crash(BaseException):
    """Stands in for the end of a process where there is but one."""


@dataclass
class Crasher:
    """Dies at one step: by ending the process, or by ending a task for ever."""

    step: str
    task: asyncio.Task[None] | None = None
    reached: list[str] = field(default_factory=list)
    handled: bool = False

    def now(self) -> NoReturn:
        """Die, in the middle of a statement."""
        self.reached.append(self.step)
        if self.task is None:
            os.kill(os.getpid(), signal.SIGKILL)  # which runs no `finally`
        raise Crash

    async def at(self, step: str) -> None:
        """Die, if this is the step."""
        if step != self.step:
            return
        self.reached.append(step)
        if self.task is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self.task.cancel()
        await asyncio.Event().wait()

    def publishing(self, publish: Publish) -> Publish:
        """Return a publish with the steps before and after it."""

        async def crashing(message: Outgoing) -> None:
            await self.at("claimed")
            await publish(message)
            await self.at("confirmed")

        return crashing

    def middleware(self) -> type[BaseMiddleware]:
        """Return the middleware of a broker with the step after its confirmation."""
        crasher = self

        class Published(BaseMiddleware):
            async def publish_scope(
                self, call_next: Callable[[Any], Awaitable[object]], cmd: object
            ) -> object:
                result = await call_next(cmd)
                await crasher.at("published")
                return result

        return Published

    @contextmanager
    def installed(self, engine: AsyncEngine) -> Iterator[None]:
        """Die at the steps of SQL and of acknowledging, inside the block."""
        acknowledge = Message.ack

        async def acknowledged(message: Message, *multiple: bool) -> None:
            await acknowledge(message, *multiple)
            if self.handled:
                await self.at("acknowledged")

        def executing(*_: object) -> None:
            if self.reached:
                raise Crash  # a process that is dead writes nothing more

        def executed(_: object, __: object, statement: str, *___: object) -> None:
            if statement.startswith(STATEMENTS.get(self.step, "none")):
                self.now()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Message, "ack", acknowledged)
            sa.event.listen(engine.sync_engine, "before_cursor_execute", executing)
            sa.event.listen(engine.sync_engine, "after_cursor_execute", executed)
            yield
            sa.event.remove(engine.sync_engine, "before_cursor_execute", executing)
            sa.event.remove(engine.sync_engine, "after_cursor_execute", executed)

    async def commit_and_relay(
        self, service: Service, publish: Publish, exchange: str
    ) -> None:
        """Go the first half of the way."""
        await service.forward()
        await self.at("committed")
        await service.relay(self.publishing(publish), exchange).relay_batch()
        await self.at("marked")


@dataclass
class CrashingReader(Reader):
    """A reader with the step between its effect and its acknowledgement."""

    crasher: Crasher = field(default_factory=lambda: Crasher("none"))

    async def handle(self, message: RabbitMessage) -> None:
        """Handle one delivery."""
        await super().handle(message)
        self.crasher.handled = True
        await self.crasher.at("handled")


async def main(
    step: str, database_url: str, rabbitmq_url: str, exchange: str, queue: str
) -> None:
    """Go the whole way, or as far as the step."""
    crasher = Crasher(step)
    engine, sessions = create_engine_and_sessions(database_url)
    broker = make_broker(rabbitmq_url, middlewares=[crasher.middleware()])
    publish = publisher(broker)
    reader = CrashingReader(broker, sessions, events(exchange), queue, crasher=crasher)
    await broker.connect()
    with crasher.installed(engine):
        await crasher.commit_and_relay(Service(engine, sessions), publish, exchange)
        await broker.start()
        await reader.take(1)
        await broker.stop()
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
