"""Let PostgreSQL itself show and change no row but the current tenant's.

Policies on each table compare `tenant_id` with a setting that is told at the start of
each transaction, so a connection from the pool knows no tenant of before. They hold for
what reads and writes rows through the engine: text, `session.connection()`, another
program's queries. Without a tenant the database raises. A tenant that changes within a
transaction changes nothing there.

Not held back are superusers and roles with BYPASSRLS: run migrations and jobs for all
tenants as such a role, on an engine of its own, and the service as none. Nor are text
that sets the setting, which is believed, and TRUNCATE: let the service's role neither
own the tables nor have that privilege. A view and a SECURITY DEFINER function read as
the role that owns them: make views with security_invoker.

Source: https://www.postgresql.org/docs/15/ddl-rowsecurity.html
"""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.auth.tenancy import NoTenantError, current_tenant

SETTING = "app.tenant_id"
POLICY = "tenant_isolation"  # restrictive: no other policy can widen it
POLICIES = {"tenant_rows": "PERMISSIVE", POLICY: "RESTRICTIVE"}

_IN_FORCE = """
SELECT row_security_active(CAST(:name AS text)) AND EXISTS (
    SELECT FROM pg_policy
    WHERE polrelid = CAST(CAST(:name AS text) AS regclass) AND polname = :policy
    AND NOT polpermissive AND polcmd = '*' AND polroles = '{0}'
    AND pg_get_expr(polqual, polrelid) LIKE :setting
    AND pg_get_expr(polwithcheck, polrelid) LIKE :setting
)
"""


class UnprotectedError(RuntimeError):
    """A role that row-level security does not hold back would serve requests."""


def tell_tenant(engine: AsyncEngine) -> None:
    """Tell PostgreSQL the current tenant at the start of each transaction.

    It is one statement more. Where there is no tenant, what text may have left in the
    connection's setting is put out of force.
    """
    if engine.dialect.name != "postgresql":
        raise TypeError(f"{engine.dialect.name} has no row-level security")
    event.listen(engine.sync_engine, "begin", _tell)


def _tell(connection: sa.Connection) -> None:
    try:
        tenant = str(current_tenant())
    except NoTenantError:
        tenant = ""  # no UUID, so the comparison raises
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
        for policy, kind in POLICIES.items():
            as_one = f"CREATE POLICY {policy} ON {name} AS {kind}"
            yield f"{as_one} USING ({own}) WITH CHECK ({own})"


def require_policies(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Raise `UnprotectedError` if this role could be shown the rows of all tenants.

    Call it with `run_sync` before the first request.
    """
    for table in _with_tenant(metadata):
        name = connection.dialect.identifier_preparer.format_table(table)
        given = {"name": name, "policy": POLICY, "setting": f"%{SETTING}%"}
        if not connection.scalar(sa.text(_IN_FORCE), given):
            raise UnprotectedError(f"{name} hides no row from this role")


def _with_tenant(metadata: sa.MetaData) -> list[sa.Table]:
    return [table for table in metadata.sorted_tables if "tenant_id" in table.c]
