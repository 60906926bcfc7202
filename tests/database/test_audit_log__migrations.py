"""The log's table comes with a migration, triggers included, like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy import MetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.database.async_session import create_engine_and_sessions, session_scope
from snippets.database.audit_log import AuditBase, AuditEntry, install_audit_log
from snippets.database.audit_mixin import set_actor
from snippets.database.migrations import (
    NAMING_CONVENTION,
    check_migrations,
    run_migrations,
)
from snippets.database.row_changes import AuditedMixin
from tests.support.migration_trees import add_revision

if TYPE_CHECKING:
    from pathlib import Path


class Base(DeclarativeBase):
    """The models of a service, and beside them the table of the log."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


AuditBase.metadata.tables["audit_entries"].to_metadata(Base.metadata)


class User(AuditedMixin, Base):
    """Somebody with a telephone."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


ENVIRONMENT = f"""\
from snippets.database.migrations import run_environment
from {__name__} import Base
run_environment(Base.metadata)
"""
USERS_UP = """\
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String, nullable=False),
        sa.UniqueConstraint("email"),
    )"""
LOG_UP = """\
    from snippets.database.audit_log import APPEND_ONLY
    op.create_table(
        "audit_entries",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(always=True),
            primary_key=True,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("tenant", sa.String(255)),
        sa.Column("request_id", sa.String(255)),
        sa.Column("action", sa.String(6), nullable=False),
        sa.Column("table_name", sa.String, nullable=False),
        sa.Column("row_key", sa.String, nullable=False),
        sa.Column("changed", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    row = ["table_name", "row_key"]
    op.create_index("ix_audit_entries_row", "audit_entries", row)
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A script folder with a revision for the users, and one for the log."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
    add_revision(folder, "users", None, USERS_UP)
    add_revision(folder, "log", "users", LOG_UP)
    return folder


async def test_a_log_that_a_migration_made_is_written_and_cannot_be_rewritten(
    database_url: str, scripts: Path
) -> None:
    engine, sessions = create_engine_and_sessions(database_url)
    install_audit_log(sessions)
    assert await run_migrations(engine, scripts)
    await check_migrations(engine, scripts)

    with set_actor("ada"):
        async with session_scope(sessions) as session:
            session.add(User(id=1, email="ada@example.com"))
    async with session_scope(sessions) as session:
        entries = await session.execute(sa.select(AuditEntry.actor, AuditEntry.action))
        assert entries.all() == [("ada", "insert")]
    for rewrite in ("DELETE FROM audit_entries", "UPDATE audit_entries SET actor = ''"):
        with pytest.raises(DBAPIError, match="append-only"):
            async with engine.begin() as connection:
                await connection.exec_driver_sql(rewrite)
    await engine.dispose()
