"""A user, and a client that says yes or no, as written first."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass
class AuthUser:
    """Whom a token speaks for."""

    token: str
    auth_id: str
    expires_at: datetime
    acl: list[str]


class AuthClient(Protocol):
    """Who can be asked about a token."""

    async def get_user(self, token: str) -> AuthUser | None:
        """Return whose token it is, or None."""


@dataclass
class FakeAuthClient:
    """Knows the tokens it was given, unless this is production."""

    environment: str
    users: dict[str, AuthUser] = field(default_factory=dict)
    is_down: bool = False

    async def get_user(self, token: str) -> AuthUser | None:
        """Return whose token it is, or None."""
        if self.environment == "production" or self.is_down:
            return None
        return self.users.get(token)
