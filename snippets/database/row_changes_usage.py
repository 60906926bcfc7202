"""Ada gets an extension and moves to another desk; print what each flush did."""

import asyncio
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from snippets.database.async_session import (
    create_engine_and_sessions,
    relationship,
    session_scope,
)
from snippets.database.row_changes import AuditedMixin, tell_flushes
from snippets.database.row_diff import REDACTED, Change


class Base(DeclarativeBase):
    """The tables of this example."""


class User(AuditedMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    desk: Mapped[str]
    pin: Mapped[str] = mapped_column(info=REDACTED)
    extensions: Mapped[list["Extension"]] = relationship(cascade="all, delete-orphan")


class Extension(AuditedMixin, Base):
    """A number that rings at a user's desk."""

    __tablename__ = "extensions"

    number: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))


def tell(_: Session, changes: Sequence[Change]) -> None:
    """Print what a flush did."""
    for change in changes:
        print(change.action, change.changed)
        # > insert {'id': (None, 1), 'desk': (None, '1.01'), 'pin': (None, '***')}
        # > insert {'number': (None, '1001'), 'user_id': (None, 1)}
        # > update {'desk': ('1.01', '2.17'), 'pin': ('***', '***')}
        # > delete {'number': ('1001', None), 'user_id': (1, None)}


async def main() -> None:
    """Write in a few ways."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    tell_flushes(sessions.kw["sync_session_class"], tell)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        ada = User(desk="1.01", pin="1234", extensions=[Extension(number="1001")])
        session.add(ada)

    async with session_scope(sessions) as session:
        session.add(ada)
        ada.desk, ada.pin = "2.17", "9876"
        ada.extensions.clear()

    async with session_scope(sessions) as session:
        session.add(ada)
        ada.desk = "somewhere"
        ada.desk = "2.17"
        print("nothing to tell")
        # > nothing to tell
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
