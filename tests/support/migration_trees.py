"""Script folders for the tests of migrations, and the models they lead to."""

from __future__ import annotations

import shutil
from pathlib import Path

import alembic
from sqlalchemy import Column, Integer, MetaData, String, Table, UniqueConstraint

from snippets.database.migrations import NAMING_CONVENTION

METADATA = MetaData(naming_convention=NAMING_CONVENTION)
USERS = Table(
    "users",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("tenant", String(40), nullable=False),
    Column("email", String(200), nullable=False),
    Column("extension", String(20)),
    UniqueConstraint("tenant", "email"),
    UniqueConstraint("tenant", "extension"),
)
ENVIRONMENT = """\
import os
from snippets.database.migrations import run_environment
from tests.support.migration_trees import METADATA
run_environment(METADATA, os.environ.get("MIGRATED_URL"))
"""
FIRST_UP = """\
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.String(40), nullable=False),
        sa.Column("email", sa.String(200), nullable=False),
        sa.UniqueConstraint("tenant", "email"),
    )"""
FIRST_DOWN = '    op.drop_table("users")'
SECOND_UP = """\
    with op.batch_alter_table("users") as batch:
        batch.add_column(sa.Column("extension", sa.String(20)))
        batch.create_unique_constraint(None, ["tenant", "extension"])"""
SECOND_DOWN = """\
    with op.batch_alter_table("users") as batch:
        batch.drop_constraint("uq_users_tenant_extension", type_="unique")
        batch.drop_column("extension")"""


def add_revision(
    folder: Path, name: str, after: str | None, up: str, down: str = "    pass"
) -> None:
    """Write a revision whose functions have these bodies."""
    (folder / "versions" / f"{name}.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = {name!r}\ndown_revision = {after!r}\n"
        f"def upgrade():\n{up}\n\ndef downgrade():\n{down}\n",
        encoding="utf-8",
    )


def write_tree(folder: Path) -> Path:
    """Write a script folder with two revisions, and return it."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
    ini = "[alembic]\nscript_location = %(here)s\npath_separator = os\n"
    template = "templates/generic/script.py.mako"
    shutil.copy(Path(alembic.__file__).parent / template, folder)
    (folder / "alembic.ini").write_text(ini, encoding="utf-8")
    add_revision(folder, "first", None, FIRST_UP, FIRST_DOWN)
    add_revision(folder, "second", "first", SECOND_UP, SECOND_DOWN)
    return folder
