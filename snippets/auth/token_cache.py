"""Remember in Redis whose a token is, and forget it at once when it is revoked.

`TokenCache` is an `AuthClient` before another one. It keeps what that says of a token,
and of a token with a tenant, for at most `ttl` and never beyond the token's end. What
the token permits is decided anew each time, and an outage is not remembered. However
many ask at once, one process asks once; while Redis is away, each call asks.

After `revoke`, no process tells anybody what was known of the token before, and who
asked before cannot restore it: Redis must evict no keys. No key or value has a token.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from secrets import token_hex
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, SecretStr, StrictBool, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from snippets.auth.token_auth import (
    AuthClient,
    AuthUser,
    InvalidTokenError,
    PermissionDeniedError,
    utc_now,
)
from snippets.caching.single_flight import SingleFlight

REFUSAL_LIFE = timedelta(seconds=5)
MOST_REFUSALS = 1000  # kept at a time by one process, however much rubbish is sent
_Answer = tuple[bytes | None, bytes]  # the mark, if Redis is there, and a `_Known`


class _Known(BaseModel, frozen=True):
    answer: AuthUser | StrictBool  # of a user or of a tenant; false is a refusal
    until: AwareDatetime


@dataclass(frozen=True, kw_only=True)
class TokenCache:
    """What `client` says of tokens, under Redis keys that start with `namespace`."""

    client: AuthClient
    redis: Callable[[], Redis]  # asked at each command; must not decode responses
    namespace: str
    ttl: timedelta = timedelta(seconds=60)
    skew: timedelta = timedelta(seconds=5)  # between the clocks of two machines
    clock: Callable[[], datetime] = utc_now
    _flights: SingleFlight[_Answer] = field(default_factory=SingleFlight, init=False)
    _refusals: deque[datetime] = field(default_factory=deque, init=False)

    async def get_user(self, token: str) -> AuthUser:
        """Return whose token it is."""
        known = await self._known(token)
        if not isinstance(known.answer, AuthUser):
            raise InvalidTokenError
        return known.answer.model_copy(update={"token": SecretStr(token)})

    async def check(
        self, token: str, *, scope: str | None = None, tenant: UUID | None = None
    ) -> None:
        """Pass if the token allows `scope` and may act for `tenant`."""
        user = await self.get_user(token)
        may = user.access.matches_required_access(scope)
        if may and tenant not in {None, user.tenant_uuid}:
            may = bool((await self._known(token, user, tenant)).answer)
        if not may:
            raise PermissionDeniedError

    async def revoke(self, token: str) -> None:
        """Forget a token's user, tenants and refusals; raises what Redis raises."""
        # The mark outlives whatever was stored, or is still to be stored, without it.
        await self.redis().set(self._root(token), token_hex(8), px=2 * self.ttl)

    async def _known(
        self, token: str, user: AuthUser | None = None, tenant: UUID | None = None
    ) -> _Known:
        root = self._root(token)
        key = f"{root}:{tenant or 'user'}"

        async def find() -> _Answer:
            began = self.clock()
            mark, stored = await self._read(root, key) or (None, b"")  # no Redis
            old, _, payload = stored.partition(b"|")
            with suppress(ValidationError):
                kept = _Known.model_validate_json(payload)
                fits = not kept.answer or (kept.answer is True) is bool(user)
                if old == mark and began < kept.until and fits:
                    return mark, payload
            known = await self._ask(token, user, tenant)
            now, payload = self.clock(), known.model_dump_json().encode()  # no token
            life = known.until - now
            is_in_time = now < began + self.ttl and life >= timedelta(milliseconds=1)
            if mark is not None and is_in_time:
                await _attempt(self.redis().set(key, mark + b"|" + payload, px=life))
            return mark, payload

        (mark, payload), led = await self._flights.run(key, find)
        if not led and [mark] != (now := await self._read(root)):
            # It was revoked, perhaps before this call: share what is asked since then.
            flight = (key, *now) if now else object()
            (_, payload), _ = await self._flights.run(flight, find)
        return _Known.model_validate_json(payload)

    async def _read(self, *keys: str) -> list[bytes]:
        found = await _attempt(self.redis().mget(*keys))
        values = [one or b"" for one in found] if isinstance(found, list) else []
        is_sound = len(values) == len(keys) and {*map(type, values)} <= {bytes, str}
        return values if is_sound else []

    async def _ask(
        self, token: str, user: AuthUser | None, tenant: UUID | None
    ) -> _Known:
        refused = PermissionDeniedError if user else InvalidTokenError
        answer: AuthUser | bool = True
        try:
            if user is None:
                user = answer = await self.client.get_user(token)
            else:
                await self.client.check(token, tenant=tenant)
        except refused:
            return self._refusal()
        end = max(user.expires_at, self.clock()) - self.skew
        return _Known(answer=answer, until=min(self.clock() + self.ttl, end))

    def _refusal(self) -> _Known:
        now = until = self.clock()
        while self._refusals and self._refusals[0] <= now:
            self._refusals.popleft()
        if len(self._refusals) < MOST_REFUSALS:
            until += REFUSAL_LIFE
            self._refusals.append(until)
        return _Known(answer=False, until=until)

    def _root(self, token: str) -> str:
        return f"{self.namespace}:{{{sha256(token.encode()).hexdigest()}}}"


async def _attempt(command: Awaitable[object]) -> object:
    try:
        return await command
    except (RedisError, OSError, ValueError, RecursionError) as error:  # or nonsense
        logging.getLogger(__name__).warning("token cache: %s", type(error).__name__)
        return None
