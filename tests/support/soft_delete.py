"""The models and the sessions that the tests of soft deletion share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import ForeignKey, ForeignKeyConstraint, UniqueConstraint, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    WriteOnlyMapped,
    mapped_column,
    relationship,
)
from sqlalchemy.pool import ConnectionPoolEntry

from snippets.database.async_session import create_engine_and_sessions
from snippets.database.soft_delete import (
    SoftDeleteMixin,
    install_soft_delete,
    unique_live,
)
from tests.support.databases import create_tables


class Base(AsyncAttrs, DeclarativeBase):
    """The tables of these tests."""


class User(SoftDeleteMixin, Base):
    """A user, whose e-mail address nobody else has as long as it is not deleted."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("id", "live"),
        unique_live("uq_users_email", "email"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    extensions: Mapped[list["Extension"]] = relationship(
        back_populates="user",
        foreign_keys="Extension.user_id",
        cascade="all",
        passive_deletes=True,
        order_by="Extension.id",
    )
    written: WriteOnlyMapped["Extension"] = relationship(
        foreign_keys="Extension.user_id",
        overlaps="extensions,user",
        passive_deletes=True,
    )


class Extension(SoftDeleteMixin, Base):
    """An extension of a user, deleted with its user."""

    __tablename__ = "extensions"
    __table_args__ = (
        UniqueConstraint("id", "live"),
        ForeignKeyConstraint(["user_id", "live"], ["users.id", "users.live"]),
        unique_live("uq_extensions_number", "number"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    number: Mapped[str]
    user: Mapped[User] = relationship(back_populates="extensions", foreign_keys=user_id)
    voicemails: Mapped[list["Voicemail"]] = relationship(
        cascade="all", passive_deletes=True, foreign_keys="Voicemail.extension_id"
    )


class Voicemail(SoftDeleteMixin, Base):
    """A message left at an extension, deleted with it."""

    __tablename__ = "voicemails"
    __table_args__ = (
        ForeignKeyConstraint(
            ["extension_id", "live"], ["extensions.id", "extensions.live"]
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    extension_id: Mapped[int] = mapped_column(ForeignKey("extensions.id"))
    caller: Mapped[str] = mapped_column(default="")


class Call(Base):
    """A call to an extension, a record that outlives it: its rows are never hidden."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    extension_id: Mapped[int] = mapped_column(ForeignKey("extensions.id"))
    extension: Mapped[Extension | None] = relationship()


@dataclass
class Clock:
    """A clock that stands still until it is told to go on."""

    now: datetime = datetime(2026, 11, 22, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now

    def tick(self) -> None:
        """Go on by a second."""
        self.now += timedelta(seconds=1)


@dataclass
class Telephony:
    """A database with the tables, and sessions that delete softly."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    clock: Clock = field(default_factory=Clock)
    actor: str | None = "ada"


@asynccontextmanager
async def telephony(url: str) -> AsyncIterator[Telephony]:
    """Yield a fresh telephony platform in the database at `url`."""
    engine, sessions = create_engine_and_sessions(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _do_not_wait_for_the_disk)
    platform = Telephony(engine, sessions)
    install_soft_delete(sessions, actor=lambda: platform.actor, clock=platform.clock)
    await create_tables(engine, Base.metadata)
    try:
        yield platform
    finally:
        await engine.dispose()


def _do_not_wait_for_the_disk(
    connection: DBAPIConnection, _: ConnectionPoolEntry
) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()
