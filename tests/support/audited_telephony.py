"""The models and the sessions that the tests of the audit log share."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    declared_attr,
    mapped_column,
)
from sqlalchemy.orm import relationship as related

from snippets.database.async_session import create_engine_and_sessions
from snippets.database.row_changes import AuditedMixin, Record
from snippets.database.row_diff import REDACTED, Change
from tests.support.databases import create_tables

Tell: TypeAlias = Callable[[type[Session], Record], None]


class Base(DeclarativeBase):
    """The tables of these tests."""


class User(AuditedMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column("email_address", unique=True)
    desk: Mapped[str | None]
    pin: Mapped[str | None] = mapped_column(info=REDACTED)
    settings: Mapped[dict[str, Any] | None] = mapped_column(
        MutableDict.as_mutable(sa.JSON(none_as_null=True))
    )
    credit: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))
    greeting: Mapped[str | None] = mapped_column(deferred=True)
    initial: Mapped[str | None] = mapped_column(
        sa.Computed("substr(email_address, 1, 1)", persisted=True)
    )
    extensions: Mapped[list["Extension"]] = related(
        cascade="all, delete-orphan", order_by="Extension.number"
    )

    @hybrid_property
    def place(self) -> str | None:
        """Where to find the user."""
        return self.desk

    @place.inplace.setter
    def _set_place(self, place: str | None) -> None:
        self.desk = place


class Extension(AuditedMixin, Base):
    """A number of a tenant that rings at a user's desk."""

    __tablename__ = "extensions"

    tenant: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey(User.id))
    devices: Mapped[list["Device"]] = related()


class Device(AuditedMixin, Base):
    """A telephone, which may be at an extension."""

    __tablename__ = "devices"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["tenant", "number"], ["extensions.tenant", "extensions.number"]
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int | None]
    number: Mapped[str | None]


class Call(Base):
    """A row of which nobody is told."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    seconds: Mapped[int]


class Line(AuditedMixin, Base):
    """A line, of which there are kinds."""

    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    label: Mapped[str | None]

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, str]:
        """Tell the kinds apart by a column."""
        return {"polymorphic_on": "kind", "polymorphic_identity": cls.__name__}


class Trunk(Line):
    """A line to another exchange, in the same table."""


class OtherBase(DeclarativeBase):
    """Tables of which one is not enough."""


class Person(AuditedMixin, OtherBase):
    """Somebody, in two tables if an employee."""

    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)


class Employee(Person):
    """Somebody who is paid."""

    __tablename__ = "employees"

    id: Mapped[int] = mapped_column(sa.ForeignKey(Person.id), primary_key=True)


class DiskFullError(Exception):
    """What is raised by a log that cannot be written."""


@dataclass
class Telephony:
    """A database with the tables, and what was told of its sessions' writes."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    changes: list[Change] = field(default_factory=list)
    broken: bool = False

    def record(self, _: Session, changes: Sequence[Change]) -> None:
        """Keep what is told, or fail."""
        if self.broken:
            raise DiskFullError
        self.changes += changes

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """The action, table and key of each change."""
        return [(one.action, one.table_name, one.row_key) for one in self.changes]

    @property
    def changed(self) -> list[dict[str, tuple[object, object]]]:
        """The old and new values of each change, which are then forgotten."""
        found = [dict(one.changed) for one in self.changes]
        self.changes.clear()
        return found


@asynccontextmanager
async def telephony(url: str, *tells: Tell) -> AsyncIterator[Telephony]:
    """Yield a platform with user 1, whose telling begins after it was added."""
    engine, sessions = create_engine_and_sessions(url)
    platform = Telephony(engine, sessions)
    await create_tables(engine, Base.metadata)
    async with sessions.begin() as session:
        user = User(
            id=100, email="ada", desk="1.01", pin="1234", settings={"tone": "a"}
        )
        session.add(user)
    for tell in tells:
        tell(sessions.kw["sync_session_class"], platform.record)
    try:
        yield platform
    finally:
        await engine.dispose()
