"""Ask a telephony platform for calls that it does not have or does not allow."""

import asyncio
import logging

import httpx
from fastapi import FastAPI, HTTPException

from snippets.errors.problem_details import (
    ProblemException,
    ProblemType,
    install_problem_handlers,
)

MOST_MINUTES = 10
NO_CREDIT = ProblemType("/problems/no-credit", "There is not enough credit")


def create_app() -> FastAPI:
    """Return an application that lets nobody call for long."""
    app = FastAPI()
    install_problem_handlers(app)

    @app.post("/calls")
    async def call(number: str, minutes: int) -> str:
        if number == "0":
            raise HTTPException(503, "trunk 3 is down", {"Retry-After": "30"})
        if minutes > MOST_MINUTES:
            members = {"missing": minutes - MOST_MINUTES}
            raise ProblemException(403, kind=NO_CREDIT, members=members)
        return number

    return app


async def main() -> None:
    """Show what a client is told; the cause of the 503 is only for the log."""
    logging.getLogger("snippets.errors").addHandler(logging.NullHandler())
    transport = httpx.ASGITransport(app=create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        answer = await client.get("/callz?secret=1")
        print(answer.headers["content-type"])
        # > application/problem+json
        for member in answer.json().items():
            print(*member)
            # > type about:blank
            # > title Not Found
            # > status 404
            # > instance /callz

        answer = await client.get("/calls")
        print(answer.json()["title"], "- allowed:", answer.headers["allow"])
        # > Method Not Allowed - allowed: POST

        answer = await client.post("/calls", params={"number": "1001", "minutes": 60})
        for member in answer.json().items():
            print(*member)
            # > type /problems/no-credit
            # > title There is not enough credit
            # > status 403
            # > instance /calls
            # > missing 50

        answer = await client.post("/calls", params={"number": "0", "minutes": 1})
        print(
            "again in", answer.headers["retry-after"], "seconds:", list(answer.json())
        )
        # > again in 30 seconds: ['type', 'title', 'status', 'instance']


if __name__ == "__main__":
    asyncio.run(main())
