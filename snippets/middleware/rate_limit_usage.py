"""Let each client of a directory ask three times an hour, also one that hides."""

import asyncio
from ipaddress import ip_network

from fakeredis import FakeAsyncRedis
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response

from snippets.middleware.client_address import client_network
from snippets.middleware.rate_limit import RateLimitMiddleware
from snippets.middleware.rate_limiter import RateLimiter

PROXIES = [ip_network("127.0.0.1")]


async def main() -> None:
    """Ask more often than is allowed."""
    redis = FakeAsyncRedis()
    app = FastAPI()
    app.add_middleware(
        RateLimitMiddleware,
        limiter=RateLimiter(
            name="directory",
            limit=3,
            window=3600,
            client=lambda: redis,
            on_outage="open",
        ),
        key=lambda scope: client_network(scope, trusted_proxies=PROXIES),
    )

    @app.get("/extensions/{number}")
    async def show(number: int) -> str:
        return f"extension {number}"

    transport = ASGITransport(app=app)
    async with AsyncClient(transport=transport, base_url="http://test") as client:

        async def ask(number: int, forwarded: str) -> Response:
            headers = {"X-Forwarded-For": forwarded}
            return await client.get(f"/extensions/{number}", headers=headers)

        for number in (1001, 1002, 1003):
            answer = await ask(number, f"10.0.0.{number % 100}, 192.0.2.7")
            print(answer.json(), "left:", answer.headers["RateLimit-Remaining"])
            # > extension 1001 left: 2
            # > extension 1002 left: 1
            # > extension 1003 left: 0

        answer = await ask(1004, "10.0.0.4, 192.0.2.7")
        print(answer.headers["Content-Type"], answer.json()["detail"])
        # > application/problem+json too many requests
        hours = round(int(answer.headers["Retry-After"]) / 3600)
        print(answer.status_code, "come back in", hours, "hour")
        # > 429 come back in 1 hour

        answer = await ask(1004, "192.0.2.8")
        print("somebody else:", answer.json())
        # > somebody else: extension 1004
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
