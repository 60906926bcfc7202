"""Ask the auth service with an httpx client, as written first."""

from typing import Any

import httpx
from fastapi import HTTPException


async def get_token_data(http: httpx.AsyncClient, token: str) -> dict[str, Any]:
    """Return what the service says of a token."""
    try:
        response = await http.get(f"/api/auth/0.1/token/{token}")
        response.raise_for_status()
    except Exception as error:
        raise HTTPException(401, "invalid token") from error
    data: dict[str, Any] = response.json()["data"]
    return data
