"""Ada may read her own voicemail, and nobody may delete the operator's."""

import asyncio
from datetime import timedelta
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from snippets.auth.require_acl import EXTENSION, AclRoute, require_acl
from snippets.auth.token_auth import AuthUser, FakeAuthClient, utc_now

app = FastAPI()
app.router.route_class = AclRoute


@app.get("/voicemails/{owner}")
async def read(
    owner: str,
    user: Annotated[AuthUser, Depends(require_acl("voicemails.{owner}.read"))],
) -> str:
    """Read somebody's voicemail."""
    return f"{owner}'s voicemail, for {user.auth_id}"


@app.delete(
    "/extensions/{number:int}",
    dependencies=[Depends(require_acl("extensions.{number}.delete"))],
)
async def delete(number: int) -> str:
    """Delete an extension."""
    return f"{number} is deleted"


async def main() -> None:
    """Let Ada try."""
    fake = FakeAuthClient("test")
    fake.add(
        AuthUser(
            token=SecretStr("token-of-ada"),
            auth_id="ada",
            session_uuid="session-1",
            issued_at=utc_now(),
            expires_at=utc_now() + timedelta(hours=2),
            acl=("voicemails.me.*", "extensions.#", "!extensions.100.delete"),
        )
    )
    app.state.auth_client = fake
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://pbx",
        headers={"X-Auth-Token": "token-of-ada"},
    ) as http:
        for method, path in (
            ("GET", "/voicemails/ada"),
            ("GET", "/voicemails/grace"),
            ("DELETE", "/extensions/101"),
            ("DELETE", "/extensions/0100"),
        ):
            answer = await http.request(method, path)
            print(path, answer.status_code, answer.text)
            # > /voicemails/ada 200 "ada's voicemail, for ada"
            # > /voicemails/grace 403 {"detail":"requires voicemails.{owner}.read"}
            # > /extensions/101 200 "101 is deleted"
            # > /extensions/0100 403 {"detail":"requires extensions.{number}.delete"}

    for path, operations in app.openapi()["paths"].items():
        for operation in operations.values():
            print(path, operation[EXTENSION])
            # > /voicemails/{owner} [{'all': ['voicemails.{owner}.read']}]
            # > /extensions/{number} [{'all': ['extensions.{number}.delete']}]

    try:
        app.get("/calls/{call}", dependencies=[Depends(require_acl("calls.{id}"))])(
            lambda: None
        )
    except ValueError as error:
        print(error)
        # > /calls/{call} has no parameter 'id'


if __name__ == "__main__":
    asyncio.run(main())
