"""Move everybody from one desk to another, and release the extensions left there."""

import asyncio
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.repository import BaseRepository
from snippets.database.row_changes import AuditedMixin
from snippets.database.row_diff import Change, UnrecordedError
from snippets.database.statement_changes import tell_statements


class Base(DeclarativeBase):
    """The tables of this example."""


class Extension(AuditedMixin, Base):
    """A number that rings at a desk."""

    __tablename__ = "extensions"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]
    desk: Mapped[str | None]


def tell(_: Session, changes: Sequence[Change]) -> None:
    """Print what a statement did."""
    for change in changes:
        print(change.action, change.changed)
        # > insert {'id': (None, 1), 'number': (None, '1001'), 'desk': (None, '1.01')}
        # > insert {'id': (None, 2), 'number': (None, '1002'), 'desk': (None, '1.01')}
        # > update {'desk': ('1.01', '2')}
        # > update {'desk': ('1.01', '2')}
        # > update {'desk': ('2', None)}
        # > delete {'id': (2, None), 'number': ('1002', None)}


async def main() -> None:
    """Write in bulk, in Core and by repository."""
    engine, sessions = create_engine_and_sessions("sqlite+aiosqlite://")
    tell_statements(sessions.kw["sync_session_class"], tell)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with session_scope(sessions) as session:
        rows = [{"number": "1001", "desk": "1.01"}, {"number": "1002", "desk": "1.01"}]
        await session.execute(sa.insert(Extension), rows)

        table = Base.metadata.tables["extensions"]
        await session.execute(sa.update(table).values(desk="2"))

        await BaseRepository(Extension, session).update(2, desk=None)
        vacant = sa.delete(Extension).where(Extension.desk.is_(None))
        print((await session.scalars(vacant.returning(Extension.number))).all())
        # > ['1002']

        try:
            await session.execute(sa.text("DELETE FROM extensions"))
        except UnrecordedError as error:
            print(error)
            # > send this write by itself, not as a part or as text
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
