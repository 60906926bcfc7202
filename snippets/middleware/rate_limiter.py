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
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Literal, NamedTuple

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

SHORTEST_SECONDS, LONGEST_SECONDS, MOST_UNITS = 0.001, 2**32, 2**32
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

# The last two are for an answer that is no Redis protocol, or not the script's.
FAILURES = RedisError, RedisClusterException, OSError, ValueError, RecursionError

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
    """At most `limit` units in `window` seconds for each key below `name`; 0 is none.

    A check is one round trip, two if Redis lost the script. `client` is asked at each,
    and bounds how long it may take; it must not try twice, or a call whose answer is
    lost counts twice. While Redis is away, an `open` limiter admits all calls that
    could fit and a `closed` one none; `on_failure` is given the name at each call, and
    one log record tells when it begins. `is_available` says how the newest check went.
    """

    name: str
    limit: int
    window: float
    client: Callable[[], Redis | RedisCluster]
    on_outage: Literal["open", "closed"]
    on_failure: Callable[[str], object] | None = None
    is_available: bool = field(default=True, init=False)
    _begun: int = field(default=0, init=False, repr=False)
    _newest: int = field(default=0, init=False, repr=False)
    _digest: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise `ValueError` for what cannot be counted."""
        if not re.fullmatch(r"[\w-]+", self.name, re.ASCII):
            raise ValueError(f"{self.name!r} has more than letters, digits, _ and -")
        if type(self.limit) is not int or not 0 <= self.limit <= MOST_UNITS:
            raise ValueError(f"{self.limit!r} is not a number of calls")
        if not SHORTEST_SECONDS <= self.window <= LONGEST_SECONDS:
            raise ValueError(f"{self.window} s is no window of 0.001 to 2**32 s")
        if self.on_outage not in ("open", "closed"):
            raise ValueError(f"{self.on_outage!r} is neither open nor closed")
        self._digest = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

    async def check(self, key: str, cost: int = 1) -> Verdict:
        """Count a call of `cost` units, or raise `ValueError` for less than one."""
        if type(cost) is not int or cost < 1:
            raise ValueError(f"a call cannot cost {cost}")
        self._begun = number = self._begun + 1
        try:
            reply = await self._run(key, min(cost, self.limit + 1))
            allowed, remaining, reset, wait = map(int, reply)
        except FAILURES as error:
            self._end(number, error)
            could_fit = self.on_outage == "open" and cost <= self.limit
            return Verdict(allowed=could_fit, is_counted=False)
        self._end(number)
        return Verdict(
            allowed=bool(allowed),
            limit=self.limit,
            remaining=max(remaining, 0),
            reset=-(-reset // MICROSECONDS),
            retry_after=-(-wait // MICROSECONDS) if wait > 0 else None,
        )

    async def _run(self, key: str, cost: int) -> list[str] | list[bytes]:
        named = f"{self.name}:{key}".encode("utf-8", "surrogatepass")
        arguments = named, self.limit, round(self.window * MICROSECONDS), cost
        redis = self.client()
        try:
            answer: object = await redis.evalsha(self._digest, 1, *arguments)
        except NoScriptError:
            answer = await redis.eval(_SCRIPT, 1, *arguments)
        if not isinstance(answer, str | bytes):
            raise RedisError("the script does not answer so")
        return answer.split()

    def _end(self, number: int, error: Exception | None = None) -> None:
        if number > self._newest:  # what began earlier has no news
            if error is not None and self.is_available:
                kind = type(error).__name__  # not its text, which may quote the key
                logger.warning("rate limit %s is away: %s", self.name, kind)
            self._newest, self.is_available = number, error is None
        if error is not None and self.on_failure is not None:
            try:
                self.on_failure(self.name)
            except Exception:
                logger.exception("the hook of rate limit %s failed", self.name)
