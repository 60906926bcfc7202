"""Let httpx raise for the status, and read the error's body by hand."""

import httpx


async def raise_for_status(response: httpx.Response) -> None:
    """Raise for each answer that is an error: a response hook of an AsyncClient."""
    response.raise_for_status()


async def code_of(error: httpx.HTTPStatusError) -> str:
    """Return the code by which the service names what went wrong."""
    await error.response.aread()
    code: str = error.response.json()["type"]
    return code
