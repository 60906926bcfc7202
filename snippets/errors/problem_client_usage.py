"""Ask another service for an extension, and catch its errors by their names."""

import asyncio

import httpx
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from snippets.errors.problem_client import ProblemError, raise_for_problem
from snippets.errors.problem_details import (
    ProblemException,
    ProblemType,
    install_problem_handlers,
)


class TakenError(ProblemError):
    """Somebody has the extension."""


def create_service() -> FastAPI:
    """Return the other service."""
    app = FastAPI()
    install_problem_handlers(app)

    @app.put("/extensions/{number}")
    async def assign(number: str) -> HTMLResponse:
        if number == "1001":
            kind = ProblemType("/problems/taken", "It is taken")
            raise ProblemException(409, kind=kind, members={"free": ["1002"]})
        return HTMLResponse("<h1>Bad gateway</h1>", 502)

    return app


async def main() -> None:
    """Try three extensions."""
    hook = raise_for_problem({"/problems/taken": TakenError})
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=create_service()),
        base_url="http://exchange",
        event_hooks={"response": [hook]},
    ) as client:
        try:
            await client.put("/extensions/1001")
        except TakenError as error:
            print(error.title, "- but free:", error.members["free"])
            # > It is taken - but free: ['1002']
        for path in ("/extensions/1002", "/nothing"):
            try:
                await client.put(path)
            except ProblemError as error:
                print(repr(error), error)
                # > ProblemError(502) 502 'about:blank'
                # > ProblemError(404) 404 'about:blank'


if __name__ == "__main__":
    asyncio.run(main())
