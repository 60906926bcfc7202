"""Ada hires Grace and moves her; the log tells, and cannot be made to forget."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_log import (
    AuditBase,
    AuditEntry,
    install_audit_log,
    set_origin,
)
from snippets.database.audit_mixin import NoActorError, set_actor
from snippets.database.row_changes import AuditedMixin


class Base(DeclarativeBase):
    """The tables of this example."""


class User(AuditedMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    desk: Mapped[str]


async def main() -> None:
    """Write as Ada, then as nobody, then to the log itself."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    install_audit_log(sessions)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(AuditBase.metadata.create_all)

    with set_actor("ada@example.com"), set_origin(tenant="acme", request_id="r-1"):
        async with session_scope(sessions) as session:
            session.add(User(id=7, desk="1.01"))
        async with session_scope(sessions) as session:
            await session.execute(sa.update(User).values(desk="2.17"))

    try:
        async with session_scope(sessions) as session:
            await session.execute(sa.delete(User))
    except NoActorError as error:
        print(error)
        # > nobody is writing: enter set_actor()

    async with session_scope(sessions) as session:
        of_grace = AuditEntry.table_name == "users", AuditEntry.row_key == "[7]"
        query = sa.select(AuditEntry).where(*of_grace).order_by(AuditEntry.id)
        for entry in await session.scalars(query):
            print(entry.actor, entry.tenant, entry.request_id, entry.action)
            # > ada@example.com acme r-1 insert
            # > ada@example.com acme r-1 update
            print(entry.changed)
            # > {'id': [None, 7], 'desk': [None, '1.01']}
            # > {'desk': ['1.01', '2.17']}

    try:
        async with engine.begin() as connection:
            await connection.execute(sa.text("DELETE FROM audit_entries"))
    except DBAPIError as error:
        print(error.orig)
        # > audit_entries is append-only
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
