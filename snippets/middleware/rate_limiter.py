"""Admit at most `limit` calls in any window of some seconds, counted in Redis.

The limit holds exactly, for all processes together and however many calls come at once:
whichever moment a window ends at, no more were admitted in it. One script decides, by
the clock of Redis, and stores only what it admits: who is refused and goes on asking
waits no longer. A call of several units is admitted whole or not at all.

Redis keeps a time for each unit, about ten bytes, while it counts. If Redis is away,
`on_outage` decides. If its clock is set back calls wait longer, and if it is set
forward they pass sooner; what it forgets in a crash or a failover is not counted.

Source: the sliding log, as "moving window" in https://limits.readthedocs.io.
"""

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Literal, NamedTuple

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

SHORTEST_SECONDS = 0.001
MICROSECONDS = 1_000_000

_SCRIPT = """
local limit, window, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function wait(index)
  local admitted = redis.call('LINDEX', KEYS[1], index)
  return admitted and admitted + window - now
end
local first = wait(-1)
while first and first <= 0 do
  redis.call('RPOP', KEYS[1])
  first = wait(-1)
end
local excess = redis.call('LLEN', KEYS[1]) + cost - limit
if excess > 0 then
  local fits = cost <= limit and math.max(first, wait(-excess)) or -1
  return string.format('0 %.0f %.0f %.0f', cost - excess, first or window, fits)
end
for _ = 1, cost do redis.call('LPUSH', KEYS[1], string.format('%.0f', now)) end
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return string.format('1 %.0f %.0f 0', -excess, first or window)
"""

# ValueError is the client's for an answer that is no Redis protocol.
FAILURES = (RedisError, RedisClusterException, OSError, ValueError)

logger = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """Whether a call may pass, and what its caller may know.

    In `reset` seconds, rounded up, more will be left than `remaining`. In `retry_after`
    seconds, rounded up, the refused call passes, if no other call takes its place; None
    says that no wait will help, or that the call may pass. If Redis was away,
    `is_counted` is false and the numbers say nothing.
    """

    allowed: bool
    is_counted: bool = True
    limit: int = 0
    remaining: int = 0
    reset: int = 0
    retry_after: int | None = None


@dataclass(kw_only=True)
class RateLimiter:
    """At most `limit` units in `window` seconds for each key below `name`.

    A limit of 0 admits nothing. `client` is asked at each check, and bounds how long
    one may take. While Redis is away, an `open` limiter admits all calls and a `closed`
    one none; `on_failure` is then given the name at each call, and one log record tells
    when it begins. `is_available` says how the last check went.
    """

    name: str
    limit: int
    window: float
    client: Callable[[], Redis | RedisCluster]
    on_outage: Literal["open", "closed"]
    on_failure: Callable[[str], object] | None = None
    is_available: bool = field(default=True, init=False)
    _digest: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise `ValueError` for what cannot be counted."""
        if not re.fullmatch(r"[\w-]+", self.name, re.ASCII):
            raise ValueError(f"{self.name!r} has more than letters, digits, _ and -")
        if type(self.limit) is not int or self.limit < 0:
            raise ValueError(f"{self.limit!r} is not a number of calls")
        if not SHORTEST_SECONDS <= self.window < math.inf:
            raise ValueError(
                f"{self.window} s is not a window of a millisecond or more"
            )
        if self.on_outage not in ("open", "closed"):
            raise ValueError(f"{self.on_outage!r} is neither open nor closed")
        self._digest = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

    async def check(self, key: str, cost: int = 1) -> Verdict:
        """Count a call of `cost` units; one round trip, two if Redis lost the script.

        Raises `ValueError` for a cost below 1, and nothing if Redis is away.
        """
        if cost < 1:
            raise ValueError(f"a call cannot cost {cost}")
        window = round(self.window * MICROSECONDS)
        arguments = f"{self.name}:{key}", self.limit, window, cost
        try:
            allowed, remaining, reset, wait = map(int, await self._run(*arguments))
        except FAILURES as error:
            self._report(error)
            return Verdict(allowed=self.on_outage == "open", is_counted=False)
        self.is_available = True
        return Verdict(
            allowed=bool(allowed),
            limit=self.limit,
            remaining=max(remaining, 0),
            reset=_whole_seconds(reset),
            retry_after=_whole_seconds(wait) if wait > 0 else None,
        )

    async def _run(self, *arguments: str | int) -> list[str] | list[bytes]:
        redis = self.client()
        try:
            answer: bytes | str = await redis.evalsha(self._digest, 1, *arguments)
        except NoScriptError:
            answer = await redis.eval(_SCRIPT, 1, *arguments)
        return answer.split()

    def _report(self, error: Exception) -> None:
        # Not the error's text, which may quote the key.
        if self.is_available:
            logger.warning("rate limit %s is away: %s", self.name, type(error).__name__)
        self.is_available = False
        if self.on_failure is not None:
            self.on_failure(self.name)


def _whole_seconds(microseconds: int) -> int:
    return -(-microseconds // MICROSECONDS)
