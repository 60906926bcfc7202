"""An auth service that speaks the protocol of Accent-Auth: a real ASGI application.

It can be slow, down, out of its mind, revoke, and let tokens expire. It decides with
the reference matcher, not with the pattern that is tested.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from tests.support import acl_reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

PREFIX = b"/api/auth/0.1/token/"
START = datetime(2026, 11, 27, 12, tzinfo=UTC)
ACME = "2c3b4d5e-0000-4000-8000-00000000000a"
GLOBEX = "2c3b4d5e-0000-4000-8000-00000000000b"


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: datetime = START

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


@dataclass
class AuthService:
    """The application, its tokens, and what it was asked."""

    clock: Clock = field(default_factory=Clock)
    tokens: dict[str, dict[str, object]] = field(default_factory=dict)
    tenants: dict[str, set[str]] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    may_answer: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def log_in(
        self,
        token: str,
        auth_id: str = "ada",
        acl: Iterable[str] = (),
        *,
        tenants: Iterable[str] = (ACME,),
        life: float = 3600,
    ) -> str:
        """Make a token valid; it belongs to the first tenant and sees all of them."""
        own, *_ = visible = list(tenants)
        now = self.clock()
        self.tokens[token] = {
            "token": token,
            "auth_id": auth_id,
            "session_uuid": f"session-of-{auth_id}",
            # Without an offset, as the real service writes them.
            "utc_issued_at": now.replace(tzinfo=None).isoformat(),
            "utc_expires_at": (now + timedelta(seconds=life))
            .replace(tzinfo=None)
            .isoformat(),
            "acl": list(acl),
            "metadata": {"uuid": auth_id, "tenant_uuid": own},
            "user_agent": "ignored",
        }
        self.tenants[token] = set(visible)
        return token

    def revoke(self, token: str) -> None:
        """Make a token invalid."""
        del self.tokens[token]

    @property
    def calls(self) -> int:
        """How many requests it was sent."""
        return len(self.requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        assert await receive()  # the request has no body
        raw: bytes = scope["raw_path"]
        query: bytes = scope["query_string"]
        # httpx in process leaves the query in the raw path, uvicorn does not.
        raw = raw.partition(b"?")[0]
        method, path = scope["method"], scope["path"]
        self.requests.append((method, raw.decode(), query))
        token = path.removeprefix(PREFIX.decode())
        status, body = self._answer(
            method, raw, token, parse_qs(query.decode(), keep_blank_values=True)
        )
        if self.status is not None:
            status = self.status
        # It has decided, and the answer is on its way.
        self.asked.set()
        if self.may_answer is not None:
            await self.may_answer.wait()
        headers = {"content-type": "application/json", **self.headers}
        encoded = [(k.encode(), v.encode()) for k, v in headers.items()]
        await send(
            {"type": "http.response.start", "status": status, "headers": encoded}
        )
        is_head = method == "HEAD"
        sent = b"" if is_head else body if self.body is None else self.body
        await send({"type": "http.response.body", "body": sent})

    def _answer(
        self, method: str, raw: bytes, token: str, query: dict[str, list[str]]
    ) -> tuple[int, bytes]:
        if not raw.startswith(PREFIX) or b"/" in raw.removeprefix(PREFIX):
            return 418, b"no resource of this service"
        data = self.tokens.get(token)
        if data is None or self._has_expired(data):
            return 404, b"{}"
        if method == "GET":
            return 200, json.dumps({"data": data}).encode()
        metadata = data["metadata"]
        assert isinstance(metadata, dict)
        own = str(metadata["tenant_uuid"])
        (tenant,) = query.get("tenant", [own])
        (required,) = query.get("scope", [""])
        meanings = acl_reference.words(
            str(data["auth_id"]), str(data["session_uuid"]), own
        )
        acl = data["acl"]
        assert isinstance(acl, list)
        may = "scope" not in query or acl_reference.decide(acl, required, meanings)
        return (204 if may and tenant in self.tenants[token] else 403), b""

    def _has_expired(self, data: dict[str, object]) -> bool:
        end = datetime.fromisoformat(str(data["utc_expires_at"]))
        return end.replace(tzinfo=UTC) <= self.clock()
