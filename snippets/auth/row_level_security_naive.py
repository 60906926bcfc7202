"""Row-level security as it is often set up first: a policy, and a SET per request."""

from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

POLICY = """
CREATE POLICY tenant ON {table}
USING (tenant_id = current_setting('app.tenant_id')::uuid)
"""


def create_policy(connection: Connection, table: str) -> None:
    """Let a table show the tenant's rows."""
    connection.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
    connection.execute(text(POLICY.format(table=table)))


async def set_tenant(connection: AsyncConnection, tenant: UUID) -> None:
    """Say for whom the connection works."""
    await connection.execute(text(f"SET app.tenant_id = '{tenant}'"))
