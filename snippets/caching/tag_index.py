"""Store a value with its tags, so that they are never parted, and remove it by a tag.

One script stores a value and its tags. After an invalidation every entry with the tag
is gone, whatever its time to live, and who read before it cannot store what was loaded
meanwhile, even if there was no entry yet: `store` needs what `read` returned. It goes
in batches, others are served in between, and it can be repeated. All keys expire.

All keys of an index are in one slot, so this holds on a Redis Cluster too: make one per
tenant, and tenants spread over the nodes. Raises what the client raises. If Redis
evicts keys, loses its last writes, or is a replica, old values may be served.

Source: leases in Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013.
"""

import re
import secrets
from collections.abc import Callable
from typing import NamedTuple

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import InvalidResponse

BATCH = 500
CENTURY = 3_153_600_000  # seconds; Redis refuses far longer amid a script

# An entry is a hash: the field "=" has its value, a field "#tag" stands for each tag.
# Each tag has an index: the keys stored with it, by the time at which they end. A key
# that was stored anew without the tag, or removed, may stay in the index until then.
# KEYS[1] has the marks: the last 10,000 "#tag" or "@key" invalidated, with numbers. Who
# reads is given the highest one, and must not store what has a higher one by then.
_COMMON = """
local function entry(key) return KEYS[1] .. ':entry:' .. key end
local function index(tag) return KEYS[1] .. ':index:' .. tag end
local function mark(i) return redis.call('ZRANGE', KEYS[1], i, i, 'WITHSCORES')[2] end
"""
# The first number is random, so once the marks have gone, older readings are refused.
_MARK = f"""{_COMMON}
local last, left, removed = tonumber(mark(-1) or ARGV[1]), {BATCH}, 0
redis.call('ZADD', KEYS[1], 'NX', last, '')
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], last + 1, ARGV[i])
  local own = string.match(ARGV[i], '^@(.*)')
  if own then removed = removed + redis.call('UNLINK', entry(own)) end
  local keys = left > 0 and redis.call('ZRANGE', index(ARGV[i]), 0, left - 1) or {{}}
  for _, key in ipairs(keys) do
    redis.call('ZREM', index(ARGV[i]), key)
    local has = redis.call('HEXISTS', entry(key), ARGV[i]) == 1
    removed = removed + (has and redis.call('UNLINK', entry(key)) or 0)
  end
  left = left - #keys
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -10001)
redis.call('EXPIRE', KEYS[1], 3600)
return {{last, removed, left}}
"""
# An index must outlive its last entry, and must not gather those that ended. A script
# that fails half-way is not undone, so the entry is stored last.
_STORE = f"""{_COMMON}
local key, seen, life = entry(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if seen < tonumber(mark(0) or math.huge) or seen > tonumber(mark(-1)) then return 0 end
for i = 4, #ARGV do
  local field = i > 4 and ARGV[i] or '@' .. ARGV[1]
  if tonumber(redis.call('ZSCORE', KEYS[1], field) or 0) > seen then return 0 end
end
redis.call('UNLINK', key)
local time = redis.call('TIME')
local now, fields = time[1] * 1000 + math.floor(time[2] / 1000), {{'=', ARGV[4]}}
for i = 5, #ARGV do
  local own = index(ARGV[i])
  local ended = redis.call('ZRANGEBYSCORE', own, 0, now, 'LIMIT', 0, {BATCH})
  if #ended > 0 then redis.call('ZREM', own, unpack(ended)) end
  redis.call('ZADD', own, now + life, ARGV[1])
  if redis.call('PTTL', own) < life then redis.call('PEXPIRE', own, life) end
  fields[i * 2 - 7], fields[i * 2 - 6] = ARGV[i], ''
end
for i = 1, #fields, 2 do redis.call('HSET', key, fields[i], fields[i + 1]) end
return redis.call('PEXPIRE', key, life)
"""


Client = Callable[[], Redis | RedisCluster]


class Reading(NamedTuple):
    """A value, or the right to store one."""

    key: str
    payload: bytes | None
    mark: int = -1


class TagIndex:
    """Entries of one namespace; their keys and tags may be any text in UTF-8."""

    def __init__(self, client: Client, namespace: str) -> None:
        """Ask for the client at each command; it must not decode responses."""
        if not re.fullmatch(r"[^{}]+", namespace):
            raise ValueError(f"{namespace!r} would not keep the keys in one slot")
        self._client, self.root = client, f"{{{namespace}}}"

    async def read(self, key: str) -> Reading:
        """Return the entry in one round trip, or the right to store it in two."""
        match await self._client().hget(f"{self.root}:entry:{key}", "="):
            case bytes(payload):
                return Reading(key, payload)
            case None:
                return Reading(key, None, (await self._mark())[0])
            case str():
                raise TypeError("use a client that does not decode: entries are bytes")
        raise InvalidResponse("this is no value of a field")

    async def store(
        self, reading: Reading, payload: bytes, *tags: str, ttl: float
    ) -> bool:
        """Store a value for `ttl` seconds; return false if it may be out of date.

        It may if its key, one of `tags`, or 10,000 tags and keys were invalidated since
        `read`, or if an hour passed without any miss or invalidation.
        """
        values = reading.key, reading.mark, milliseconds(ttl), payload
        if reading.mark < 0:
            return False
        fields = (f"#{tag}" for tag in tags)
        return bool(await self._client().eval(_STORE, 1, self.root, *values, *fields))

    async def invalidate(self, *tags: str) -> int:
        """Remove every entry with one of these tags; return how many there were."""
        total = left = 0
        while tags and not left:
            _, removed, left = await self._mark(*(f"#{tag}" for tag in tags))
            total += removed
        return total

    async def invalidate_key(self, key: str) -> bool:
        """Remove the entry of this key; return whether there was one."""
        return (await self._mark(f"@{key}"))[1] > 0

    async def _mark(self, *fields: str) -> tuple[int, int, int]:
        first = secrets.randbelow(10**13)
        match await self._client().eval(_MARK, 1, self.root, first, *fields):
            case [int(last), int(removed), int(left)]:
                return last, removed, left
        raise InvalidResponse("this is no answer of the script")


def milliseconds(ttl: float) -> int:
    """Return a time to live in milliseconds; raise `ValueError` if it is none."""
    if 0 < ttl <= CENTURY and (whole := round(ttl * 1000)):
        return whole
    raise ValueError(f"{ttl} s is not a time from a millisecond to a century")
