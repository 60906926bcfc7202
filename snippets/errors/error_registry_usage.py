"""Give an extension away twice, and publish what can go wrong."""

import asyncio

import httpx
from fastapi import FastAPI

from snippets.errors.error_registry import AppError, ErrorCode, Registry


class ExtensionError(AppError):
    """Something is wrong with an extension."""

    code = ErrorCode("/problems/extension", 400, "It is no extension", ("number",))


class TakenError(ExtensionError):
    """Somebody has it already."""

    code = ErrorCode("/problems/taken", 409, "It is taken", ("number",))


class TakenByVoicemailError(TakenError):
    """The voicemail has it, which clients need not know."""


REGISTRY = Registry(ExtensionError.code, TakenError.code)


async def main() -> None:
    """Show what a client is told, and the list of all types."""
    app = FastAPI()
    REGISTRY.install(app)

    @app.put("/extensions/{number}")
    async def assign(number: str) -> None:
        if number == "1000":
            raise TakenByVoicemailError("box 7", number=number, tenant_id=42)
        raise ExtensionError(number=number)

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        for number in ("1000", "17"):
            answer = await client.put(f"/extensions/{number}")
            for member in answer.json().items():
                print(*member)
                # > type /problems/taken
                # > title It is taken
                # > status 409
                # > instance /extensions/1000
                # > number 1000
                # > type /problems/extension
                # > title It is no extension
                # > status 400
                # > instance /extensions/17
                # > number 17

    for one in REGISTRY.types():
        print(one["type"], one["status"], one["title"])
        # > /problems/extension 400 It is no extension
        # > /problems/taken 409 It is taken

    try:
        Registry(TakenError.code, ErrorCode("/problems/taken", 404, "It is gone"))
    except ValueError as error:
        print(str(error).partition(": ")[0])
        # > one type twice


if __name__ == "__main__":
    asyncio.run(main())
