"""The same users behind every kind of auth client."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import httpx
from pydantic import SecretStr

from snippets.auth.auth_service import AuthServiceClient
from snippets.auth.token_auth import AuthUser, FakeAuthClient
from tests.support.auth_service import ACME, AuthService, Clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snippets.auth.token_auth import AuthClient


class World(Protocol):
    """Users with tokens, and a client that can be asked about them."""

    clock: Clock

    @property
    def client(self) -> AuthClient:
        """Who is asked."""

    @property
    def calls(self) -> int:
        """How often the service was asked."""

    def log_in(
        self,
        token: str,
        auth_id: str = "ada",
        acl: Iterable[str] = (),
        *,
        tenants: Iterable[str] = (ACME,),
        life: float = 3600,
    ) -> str:
        """Make a token valid."""

    def revoke(self, token: str) -> None:
        """Make a token invalid."""

    def go_down(self) -> None:
        """Let nobody be able to say anything."""


@dataclass
class ServiceWorld:
    """Behind an auth service, in process."""

    service: AuthService = field(default_factory=AuthService)
    timeout: float = 60
    client: AuthClient = field(init=False)

    def __post_init__(self) -> None:
        """Let the client talk to the application without a socket."""
        transport = httpx.ASGITransport(self.service)
        self.client = AuthServiceClient("http://auth", transport, timeout=self.timeout)
        self.clock = self.service.clock
        self.log_in = self.service.log_in
        self.revoke = self.service.revoke

    @property
    def calls(self) -> int:
        """How often the service was asked."""
        return self.service.calls

    def go_down(self) -> None:
        """Answer every request with 503."""
        self.service.status = 503


class _CountingFake(FakeAuthClient):
    calls = 0

    async def get_user(self, token: str) -> AuthUser:
        self.calls += 1
        return await super().get_user(token)

    async def check(
        self, token: str, *, scope: str | None = None, tenant: UUID | None = None
    ) -> None:
        self.calls += 1
        await super().check(token, scope=scope, tenant=tenant)


@dataclass
class FakeWorld:
    """Behind the fake."""

    clock: Clock = field(default_factory=Clock)
    client: _CountingFake = field(init=False)

    def __post_init__(self) -> None:
        """Make the fake, which may run in tests."""
        self.client = _CountingFake("test", self.clock)
        self.revoke = self.client.revoke

    @property
    def calls(self) -> int:
        """How often the fake was asked."""
        return self.client.calls

    def log_in(
        self,
        token: str,
        auth_id: str = "ada",
        acl: Iterable[str] = (),
        *,
        tenants: Iterable[str] = (ACME,),
        life: float = 3600,
    ) -> str:
        """Make a token valid, of the same user that the service would tell of."""
        own, *others = tenants
        now = self.clock()
        user = AuthUser(
            token=SecretStr(token),
            auth_id=auth_id,
            session_uuid=f"session-of-{auth_id}",
            issued_at=now,
            expires_at=now + timedelta(seconds=life),
            tenant_uuid=UUID(own),
            acl=tuple(acl),
            metadata={"uuid": auth_id, "tenant_uuid": own},
        )
        self.client.add(user, *map(UUID, others))
        return token

    def go_down(self) -> None:
        """Let the fake be down."""
        self.client.is_down = True
