"""Wire tokens, their cache, permissions, the tenant and its rows into one service."""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from snippets.auth.require_acl import AclRoute, require_acl
from snippets.auth.tenancy import TenantMixin, current_tenant, install_tenancy
from snippets.auth.tenant_resolution import ActiveTenants, get_tenant
from snippets.auth.token_auth import AuthClient
from snippets.auth.token_cache import TokenCache
from snippets.caching.cached import Cache, cached
from snippets.database.async_session import SessionDep, session_scope

LARGEST_KEY = 2**31 - 1  # of an INTEGER column; a driver fails at any larger one


class Base(DeclarativeBase):
    """The tables of the service."""


class Extension(TenantMixin, Base):
    """A number of a tenant."""

    __tablename__ = "extensions"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]


def create_app(
    auth: AuthClient,
    active: ActiveTenants,
    cache: Cache,
    sessions: async_sessionmaker[AsyncSession],
) -> FastAPI:
    """Return the service; whoever opened its connections closes them."""
    install_tenancy(sessions)
    app = FastAPI(dependencies=[Depends(get_tenant)])
    app.router.route_class = AclRoute
    tokens = TokenCache(client=auth, redis=cache.client, namespace=cache.namespace)
    app.state.auth_client, app.state.active_tenants = tokens, active
    app.state.sessions = sessions

    @cached(cache, ttl=60, vary=current_tenant)
    async def numbers() -> list[str]:
        async with session_scope(sessions) as session:
            return [*await session.scalars(select(Extension.number))]

    @app.get("/extensions", dependencies=[Depends(require_acl("extensions.read"))])
    async def list_extensions() -> list[str]:
        return await numbers()

    may_read = Depends(require_acl("extensions.{key}.read"))

    @app.get("/extensions/{key:int}", dependencies=[may_read])
    async def read_extension(
        key: Annotated[int, Path(le=LARGEST_KEY)], session: SessionDep
    ) -> str:
        if (extension := await session.get(Extension, key)) is None:
            raise HTTPException(404)
        return extension.number

    return app
