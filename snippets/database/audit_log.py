"""Keep a log of who changed which row, from what to what, that nobody can rewrite.

An entry is written in the transaction of its change, and one does not exist without the
other: a rollback takes both, and a change whose entry fails is rolled back. Within a
transaction ids rise from write to write; they do not follow the order of commits.
Triggers refuse to change or remove entries, also to programs that use no session; who
owns the table can still drop them, so let the application's role not own it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql import visitors

from snippets.database.audit_mixin import ACTOR_LENGTH, current_actor
from snippets.database.row_changes import tell_flushes
from snippets.database.row_diff import Change
from snippets.database.statement_changes import tell_statements, writes_to

LONGEST_ORIGIN = 255
"""Characters of a tenant and of a request id."""
_REFUSE = "BEGIN SELECT RAISE(ABORT, 'audit_entries is append-only'); END"
APPEND_ONLY = {
    "postgresql": [
        """CREATE OR REPLACE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE
        plpgsql AS $$ BEGIN RAISE EXCEPTION 'audit_entries is append-only'; END $$""",
        """CREATE TRIGGER audit_entries_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()""",
    ],
    "sqlite": [
        f"CREATE TRIGGER audit_entries_update BEFORE UPDATE ON audit_entries {_REFUSE}",
        f"CREATE TRIGGER audit_entries_delete BEFORE DELETE ON audit_entries {_REFUSE}",
        # A row that is replaced fires neither of these.
        """CREATE TRIGGER audit_entries_replace BEFORE INSERT ON audit_entries
        WHEN NEW.id IN (SELECT id FROM audit_entries)
        BEGIN SELECT RAISE(ABORT, 'audit_entries is append-only'); END""",
    ],
}
"""The triggers by dialect, for migrations; `create_all` makes them by itself."""

_Origin: TypeAlias = tuple[str | None, str | None]
_origin: ContextVar[_Origin] = ContextVar("origin", default=(None, None))


class AppendOnlyError(InvalidRequestError):
    """Somebody tried to write entries, which only the log itself does."""


class AuditBase(orm.DeclarativeBase):
    """What the log's table belongs to; for migrations, copy it beside the models'."""


class AuditEntry(AuditBase):
    """What became of one row, by whom, and on which request."""

    __tablename__ = "audit_entries"
    __table_args__ = (
        sa.Index("ix_audit_entries_row", "table_name", "row_key"),
        {"sqlite_autoincrement": True},  # an id is never given twice
    )

    id: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        sa.Identity(always=True),
        primary_key=True,
    )
    at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
    actor: Mapped[str] = mapped_column(sa.String(ACTOR_LENGTH))
    tenant: Mapped[str | None] = mapped_column(sa.String(LONGEST_ORIGIN))
    request_id: Mapped[str | None] = mapped_column(sa.String(LONGEST_ORIGIN))
    action: Mapped[str] = mapped_column(sa.String(6))
    table_name: Mapped[str]
    row_key: Mapped[str]
    changed: Mapped[dict[str, list[Any]]] = mapped_column(sa.JSON)


@event.listens_for(AuditEntry.__table__, "after_create")
def _make_append_only(_: object, connection: sa.Connection, **__: object) -> None:
    for statement in APPEND_ONLY.get(connection.dialect.name, ()):
        connection.exec_driver_sql(statement)


@contextmanager
def set_origin(*, tenant: str | None, request_id: str | None) -> Iterator[None]:
    """Let what is written inside the block be done for a tenant, on a request.

    Who does it is for `set_actor` to say. A commit belongs inside both blocks.
    """
    for text in (tenant or "", request_id or ""):
        if len(text) > LONGEST_ORIGIN or not text.isprintable():
            raise ValueError(f"not up to {LONGEST_ORIGIN} printable characters")
    token = _origin.set((tenant, request_id))
    try:
        yield
    finally:
        _origin.reset(token)


def install_audit_log(
    sessions: async_sessionmaker[Any],
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Make the sessions created from now on log what they do to audited models.

    Without an actor such a write raises `NoActorError`. `clock` returns an aware time.
    """

    def write(session: orm.Session, changes: Sequence[Change]) -> None:
        (tenant, request_id), at = _origin.get(), clock().astimezone(UTC)
        about = {"at": at, "tenant": tenant, "request_id": request_id}
        about["actor"] = current_actor()
        rows = [{**about, **vars(change)} for change in changes]
        # RETURNING is why these are the rows of one INSERT, and not of many.
        insert = sa.insert(AuditEntry).returning(AuditEntry.id)
        session.connection({"mapper": AuditEntry}).execute(insert, rows)

    base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
    own = type(base.__name__, (base,), {})
    tell_flushes(own, write)
    tell_statements(own, write)
    event.listen(own, "do_orm_execute", _refuse_statement)
    event.listen(own, "before_flush", _refuse_flush)
    sessions.configure(sync_session_class=own)


def _refuse_statement(state: orm.ORMExecuteState) -> None:
    statement: Any = state.statement
    entries = {*AuditBase.metadata.tables.values()}
    _refuse(any(writes_to(part, entries) for part in visitors.iterate(statement)))


def _refuse_flush(session: orm.Session, *_: object) -> None:
    for row in (*session.new, *session.dirty, *session.deleted):
        _refuse(isinstance(row, AuditEntry))


def _refuse(is_entry: object) -> None:
    if is_entry:
        raise AppendOnlyError("the log alone writes to audit_entries")
