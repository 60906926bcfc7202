"""A decorator that logs what a function did, in a session of its own."""

from collections.abc import Awaitable, Callable
from functools import wraps

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Function = Callable[..., Awaitable[None]]


class LogBase(DeclarativeBase):
    """The table of the log."""


class Entry(LogBase):
    """What was done."""

    __tablename__ = "naive_entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str]


def audited(
    sessions: async_sessionmaker[AsyncSession],
) -> Callable[[Function], Function]:
    """Log each call of a function, by its name."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        async def call(*args: object, **kwargs: object) -> None:
            await function(*args, **kwargs)
            async with sessions.begin() as session:
                session.add(Entry(action=function.__name__))

        return call

    return decorate
