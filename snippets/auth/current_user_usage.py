"""A service says who calls, and to whom it says nothing."""

import asyncio
from datetime import timedelta
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from snippets.auth.current_user import (
    get_auth_client,
    get_current_user,
    get_optional_user,
)
from snippets.auth.token_auth import AuthUser, FakeAuthClient, utc_now

fake = FakeAuthClient("test")
app = FastAPI()
app.dependency_overrides[get_auth_client] = lambda: fake


@app.get("/me")
async def me(user: Annotated[AuthUser, Depends(get_current_user)]) -> str:
    """Say who calls."""
    return user.auth_id


@app.get("/welcome")
async def welcome(
    user: Annotated[AuthUser | None, Depends(get_optional_user)],
) -> str:
    """Greet anybody."""
    return f"Welcome, {user.auth_id if user else 'stranger'}"


async def main() -> None:
    """Call with a good token, a bad one, none, and two."""
    fake.add(
        AuthUser(
            token=SecretStr("token-of-ada"),
            auth_id="ada",
            session_uuid="session-1",
            issued_at=utc_now(),
            expires_at=utc_now() + timedelta(hours=2),
        )
    )
    good, bad = ("X-Auth-Token", "token-of-ada"), ("X-Auth-Token", "wrong")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as http:
        for path in ("/me", "/welcome"):
            for lines in ([good], [bad], [], [good, bad]):
                answer = await http.get(path, headers=lines)
                print(path, len(lines), answer.status_code, answer.json())
                # > /me 1 200 ada
                # > /me 1 401 {'detail': 'no valid token'}
                # > /me 0 401 {'detail': 'no valid token'}
                # > /me 2 401 {'detail': 'no valid token'}
                # > /welcome 1 200 Welcome, ada
                # > /welcome 1 401 {'detail': 'no valid token'}
                # > /welcome 0 200 Welcome, stranger
                # > /welcome 2 401 {'detail': 'no valid token'}

        fake.is_down = True
        answer = await http.get("/me", headers=[good])
        print(answer.status_code, answer.headers["retry-after"], answer.json())
        # > 503 5 {'detail': 'tokens cannot be verified'}


if __name__ == "__main__":
    asyncio.run(main())
