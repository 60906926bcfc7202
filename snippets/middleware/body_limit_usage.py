"""Leave greetings that are short, long, and longer than they say."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from httpx import ASGITransport, AsyncClient

from snippets.middleware.body_limit import BodyLimitMiddleware


async def main() -> None:
    """Send each greeting, and see what becomes of it."""
    app = FastAPI()
    app.add_middleware(BodyLimitMiddleware, max_body_size=1000)

    @app.post("/greetings")
    async def record(request: Request) -> str:
        return f"{len(await request.body())} bytes recorded"

    @app.post("/music", max_body_size=5000)
    async def play(request: Request) -> str:
        return f"{len(await request.body())} bytes of music"

    sent = 0

    async def without_end() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 300
            yield b"la " * 100

    transport = ASGITransport(app=app)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/greetings", content=b"a" * 1000)
        print(answer.status_code, answer.json())
        # > 200 1000 bytes recorded

        for content in (b"a" * 1001, without_end()):
            answer = await client.post("/greetings", content=content)
            print(answer.headers["Content-Type"], answer.json()["detail"])
            # > application/problem+json the body may have 1000 bytes at most
            # > application/problem+json the body may have 1000 bytes at most
        print("read of the endless greeting:", sent)
        # > read of the endless greeting: 1200

        answer = await client.post("/music", content=b"a" * 5000)
        print(answer.status_code, answer.json())
        # > 200 5000 bytes of music


if __name__ == "__main__":
    asyncio.run(main())
