"""Let PostgreSQL itself show and change no row but the current tenant's.

A policy on each table compares `tenant_id` with a setting that lasts for one
transaction, so a connection from the pool knows no tenant of before. It holds for all
that goes through the engine: text, `session.connection()`, another program's queries.
Without a tenant the database raises. A tenant that changes within a transaction changes
nothing there. Not held back are superusers and roles with BYPASSRLS: run migrations and
jobs for all tenants as such a role, on an engine of its own, and the service as none.

Source: https://www.postgresql.org/docs/15/ddl-rowsecurity.html
"""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.auth.tenancy import NoTenantError, current_tenant

SETTING = "app.tenant_id"
POLICY = "tenant_isolation"


class UnprotectedError(RuntimeError):
    """A role that row-level security does not hold back would serve requests."""


def tell_tenant(engine: AsyncEngine) -> None:
    """Tell PostgreSQL the current tenant at the start of each transaction.

    It is one statement more, and none where there is no tenant.
    """
    if engine.dialect.name != "postgresql":
        raise TypeError(f"{engine.dialect.name} has no row-level security")
    event.listen(engine.sync_engine, "begin", _tell)


def _tell(connection: sa.Connection) -> None:
    try:
        tenant = str(current_tenant())
    except NoTenantError:
        return
    # SET LOCAL takes no parameter; this function is the same, and takes one.
    connection.execute(sa.select(sa.func.set_config(SETTING, tenant, sa.true())))


def create_policies(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Put the tables that have a `tenant_id` under the policy, their owner included.

    Call it with `run_sync` after the tables were created.
    """
    for statement in policies(metadata):
        connection.exec_driver_sql(statement)


def policies(metadata: sa.MetaData) -> Iterator[str]:
    """Yield the statements that do it, for a migration to execute."""
    quote = sa.make_url("postgresql+asyncpg://").get_dialect()().identifier_preparer
    own = f"tenant_id = current_setting('{SETTING}')::uuid"
    for table in _with_tenant(metadata):
        name = quote.format_table(table)
        yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
        yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
        yield f"CREATE POLICY {POLICY} ON {name} USING ({own}) WITH CHECK ({own})"


def require_policies(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Raise `UnprotectedError` if this role is shown the rows of all tenants.

    Call it with `run_sync` before the first request.
    """
    for table in _with_tenant(metadata):
        name = connection.dialect.identifier_preparer.format_table(table)
        if not connection.scalar(sa.select(sa.func.row_security_active(name))):
            raise UnprotectedError(f"{name} hides no row from this role")


def _with_tenant(metadata: sa.MetaData) -> list[sa.Table]:
    return [table for table in metadata.sorted_tables if "tenant_id" in table.c]
