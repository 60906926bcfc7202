"""Wire verification, its cache and permissions into FastAPI."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, SecretStr

from snippets.auth.auth_service import AuthServiceClient
from snippets.auth.require_acl import AclRoute, require_acl
from snippets.auth.token_auth import AuthUser
from snippets.auth.token_cache import TokenCache
from snippets.caching.redis_client import create_redis


class Revocation(BaseModel):
    """Which token is no longer good."""

    token: SecretStr


def create_app(
    auth_url: str, redis_url: str, transport: httpx.AsyncBaseTransport | None = None
) -> FastAPI:
    """Return an application that shows its callers to themselves.

    A consumer of the auth service's events calls `app.state.auth_client.revoke` too.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            create_redis(redis_url) as redis,
            AuthServiceClient(auth_url, transport) as service,
        ):
            app.state.auth_client = TokenCache(
                client=service, redis=lambda: redis, namespace="telephony:1"
            )
            yield

    app = FastAPI(lifespan=lifespan)
    app.router.route_class = AclRoute

    @app.get("/users/{user_id}")
    async def show(
        user_id: str,
        user: Annotated[AuthUser, Depends(require_acl("users.{user_id}.read"))],
    ) -> dict[str, str]:
        return {"id": user_id, "asked_by": user.auth_id}

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        # Each error has what was sent, too, and that may be a token.
        told = ("type", "loc", "msg")
        detail = [{name: one[name] for name in told} for one in error.errors()]
        return JSONResponse({"detail": detail}, status_code=422)

    @app.post(
        "/revocations",
        status_code=204,
        dependencies=[Depends(require_acl("auth.tokens.delete"))],
    )
    async def revoke(revocation: Revocation) -> None:
        cache: TokenCache = app.state.auth_client
        await cache.revoke(revocation.token.get_secret_value())

    return app
