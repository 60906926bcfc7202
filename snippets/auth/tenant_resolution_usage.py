"""Call a service for one's own tenant, for a customer's, and for a stranger's."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import httpx
from fastapi import BackgroundTasks, Depends, FastAPI
from pydantic import SecretStr

from snippets.auth.tenancy import current_tenant, set_tenant
from snippets.auth.tenant_resolution import ActiveTenants, get_tenant
from snippets.auth.token_auth import AuthUser, FakeAuthClient

RESELLER = UUID("aaaaaaaa-0000-4000-8000-000000000001")
CUSTOMER = UUID("bbbbbbbb-0000-4000-8000-000000000002")
STRANGER = UUID("cccccccc-0000-4000-8000-000000000003")
NAMES = {RESELLER: "reseller", CUSTOMER: "customer", STRANGER: "stranger"}


async def bill(job: dict[str, str]) -> None:
    """Handle a job, which says in its message whose it is."""
    with set_tenant(UUID(job["tenant_id"])):
        print("billed:", NAMES[current_tenant()])
        # > billed: customer


async def main() -> None:
    """Ada's token is the reseller's, and the customer is visible to it."""
    now = datetime.now(UTC)
    ada = AuthUser(
        token=SecretStr("ada-token"),
        auth_id="ada",
        session_uuid="s1",
        issued_at=now,
        expires_at=now + timedelta(hours=1),
        tenant_uuid=RESELLER,
    )
    client = FakeAuthClient("test")
    client.add(ada, CUSTOMER)
    suspended: set[UUID] = set()

    async def is_active(tenant: UUID) -> bool:
        return tenant not in suspended

    app = FastAPI()
    app.state.auth_client = client
    app.state.active_tenants = active = ActiveTenants(is_active)

    @app.get("/")
    def show(
        _: Annotated[UUID, Depends(get_tenant)], background: BackgroundTasks
    ) -> dict[str, str]:
        if current_tenant() == CUSTOMER:
            background.add_task(bill, {"tenant_id": str(current_tenant())})
        return {"tenant": NAMES[current_tenant()]}

    transport = httpx.ASGITransport(app)
    headers = {"X-Auth-Token": "ada-token"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://telephony", headers=headers
    ) as ask:

        async def call(tenant: str | None) -> str:
            named = {"Accent-Tenant": tenant} if tenant else {}
            response = await ask.get("/", headers=named)
            return f"{response.status_code} {response.text}"

        print(await call(None))
        # > 200 {"tenant":"reseller"}
        print(await call(str(CUSTOMER)))
        # > 200 {"tenant":"customer"}
        print(await call(str(STRANGER)))
        # > 403 {"detail":"not permitted for this tenant"}
        print(await call("customer"))
        # > 400 {"detail":"the tenant is not named by a UUID"}

        suspended.add(CUSTOMER)
        active.forget(CUSTOMER)  # as the consumer of the bus does at this event
        print(await call(str(CUSTOMER)))
        # > 403 {"detail":"the tenant is not active"}


if __name__ == "__main__":
    asyncio.run(main())
