"""Scrape a service of which a scanner has tried a thousand addresses."""

import asyncio

from fastapi import FastAPI, HTTPException
from httpx import ASGITransport, AsyncClient
from prometheus_client import CollectorRegistry

from snippets.middleware.http_metrics import MetricsMiddleware

NEWEST = 20


async def main() -> None:
    """Ask for some voicemails, and for what is not there."""
    voicemails = FastAPI()

    @voicemails.get("/voicemails/{number}")
    async def listen(number: int) -> str:
        if number > NEWEST:
            raise HTTPException(404)
        return f"voicemail {number}"

    app, registry = FastAPI(), CollectorRegistry()
    app.mount("/tenants/{tenant}", voicemails)
    app.add_middleware(MetricsMiddleware, registry=registry)

    transport = ASGITransport(app=app)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        for number in range(1, 31):
            tenant = ("acme", "globex")[number % 2]
            await client.get(f"/tenants/{tenant}/voicemails/{number}")
        for number in range(1000):
            await client.get(f"/backup-{number}.zip")
        await client.request("FORWARD", "/tenants/acme/voicemails/7")

    requests, _, in_progress = registry.collect()
    for sample in requests.samples:
        if sample.name == "http_requests_total":
            print(*sample.labels.values(), int(sample.value))
            # > GET /tenants/{tenant}/voicemails/{number} 200 20
            # > GET /tenants/{tenant}/voicemails/{number} 404 10
            # > GET unmatched 404 1000
            # > OTHER /tenants/{tenant}/voicemails/{number} 405 1
    print("in progress:", in_progress.samples[0].value)
    # > in progress: 0.0


if __name__ == "__main__":
    asyncio.run(main())
