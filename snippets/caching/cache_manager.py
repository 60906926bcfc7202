"""Invalidate all cached values that carry a tag, in one call and whatever their keys.

After an invalidation every entry with the tag is gone, whatever its time to live. Who
read before it cannot store what was loaded meanwhile, even if there was no entry yet:
`set_with_tags` needs what `get` returned. A value and its tags are stored by one
script. Invalidations go in batches, and others are served in between; one that fails
or is cancelled can be repeated, and finds what it left. All keys expire.

All keys of a manager are in one slot, so on a Redis Cluster each script is atomic, and
one node has all the entries: make a manager per tenant, and tenants spread over nodes.

Raises what the client raises. If Redis evicts keys, or loses its last writes, what was
invalidated may be served until its time is over. Give it no client that asks replicas.

Source: leases in Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013.
"""

import re
import secrets
from collections.abc import Callable
from typing import NamedTuple

from redis.asyncio import Redis, RedisCluster

from snippets.caching.key_patterns import delete_matching

BATCH = 500
SHORTEST_SECONDS = 0.001

# An entry is a hash: the field "=" has its value, a field "#tag" stands for each tag.
# Each tag has an index: the keys stored with it, by the time at which they end. A key
# that was stored anew without the tag, or removed, may stay in the index until then.
# KEYS[1] has the marks: the last 10,000 invalidated tags, numbered. A reader is given
# the highest number. What carries a tag with a higher one by then, it must not store.
_COMMON = """
local function entry(key) return KEYS[1] .. ':entry:' .. key end
local function index(tag) return KEYS[1] .. ':index:' .. tag end
local function mark(rank)
  return tonumber(redis.call('ZRANGE', KEYS[1], rank, rank, 'WITHSCORES')[2])
end
"""
# The first number is random, so once the marks have gone, older readings are refused.
_MARK = f"""{_COMMON}
local last, left, removed = mark(-1) or tonumber(ARGV[1]), {BATCH}, 0
redis.call('ZADD', KEYS[1], 'NX', last, '')
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], last + 1, ARGV[i])
  local keys = left > 0 and redis.call('ZRANGE', index(ARGV[i]), 0, left - 1) or {{}}
  for _, key in ipairs(keys) do
    redis.call('ZREM', index(ARGV[i]), key)
    if redis.call('HEXISTS', entry(key), ARGV[i]) == 1 then
      removed = removed + redis.call('UNLINK', entry(key))
    end
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
if seen < (mark(0) or math.huge) or seen > mark(-1) then return 0 end
for i = 5, #ARGV do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or 0) > seen then return 0 end
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
redis.call('HSET', key, unpack(fields))
return redis.call('PEXPIRE', key, life)
"""


class Reading(NamedTuple):
    """A value, or the right to store one."""

    key: str
    payload: bytes | None
    mark: int = -1


class CacheManager:
    """Entries of one namespace; their keys and tags may be any text."""

    def __init__(
        self, client: Callable[[], Redis | RedisCluster], namespace: str
    ) -> None:
        """Ask for the client at each command; it must not decode responses."""
        if not re.fullmatch(r"[^{}]+", namespace):
            raise ValueError(f"{namespace!r} would not keep the keys in one slot")
        self._client, self._root = client, f"{{{namespace}}}"

    async def get(self, key: str) -> Reading:
        """Return the entry in one round trip, or the right to store it in two."""
        payload = await self._client().hget(f"{self._root}:entry:{key}", "=")
        if isinstance(payload, str):
            raise TypeError("entries are bytes: use a client that does not decode them")
        if payload is not None:
            return Reading(key, payload)
        last, _, _ = await self._mark()
        return Reading(key, None, last)

    async def set_with_tags(
        self, reading: Reading, payload: bytes, *tags: str, ttl: float
    ) -> bool:
        """Store a value for `ttl` seconds; return false if it may be out of date.

        It may if one of `tags`, any pattern, or 10,000 tags were invalidated since
        `get`, or if an hour has passed. Who was given a value has no right to store.
        """
        if not SHORTEST_SECONDS <= ttl < float("inf"):
            raise ValueError(f"{ttl} s is not a time of a millisecond or more")
        values = reading.key, reading.mark, round(ttl * 1000), payload
        fields = [f"#{tag}" for tag in tags]
        store = self._client().eval(_STORE, 1, self._root, *values, *fields)
        return bool(await store)

    async def invalidate_by_tags(self, *tags: str) -> int:
        """Remove every entry with one of these tags; return how many there were.

        What is stored with them meanwhile may be removed too.
        """
        total = left = 0
        while tags and not left:
            _, removed, left = await self._mark(*tags)
            total += removed
        return total

    async def invalidate_pattern(self, pattern: str) -> int:
        """Remove every entry whose key matches; all who read before must load again."""
        await self._client().unlink(self._root)
        return await delete_matching(self._client(), f"{self._root}:entry:", pattern)

    async def _mark(self, *tags: str) -> list[int]:
        first, fields = secrets.randbelow(10**13), [f"#{tag}" for tag in tags]
        reply: list[int]
        reply = await self._client().eval(_MARK, 1, self._root, first, *fields)
        return reply
