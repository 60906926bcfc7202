"""Cache values with tags, so that one call invalidates all that a change concerns.

After an invalidation every entry with the tag is gone, whatever its key and its life.
Who read before it cannot store what was loaded meanwhile, even if there was no entry
yet: `set_with_tags` needs what `get` returned. `tag_index` has the fine print.

When Redis is gone, slow, or answers nonsense, a read is a miss, and nothing is stored;
one log record and one call of `on_failure` tell of it, without a key, a tag or a value.
An invalidation raises what the client raises, for nobody else would know that the old
values may be served until they end: repeat it. The client's time limits bound each wait
for an answer, so give it some, as `create_redis` does.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError

from snippets.caching.key_patterns import delete_matching
from snippets.caching.tag_index import Client, Reading, TagIndex, milliseconds

# The client raises the last two for an answer that is no Redis protocol.
FAILURES = (RedisError, OSError, ValueError, RecursionError)

logger = logging.getLogger(__name__)


class CacheManager:
    """Entries of one namespace; their keys and tags may be any text in UTF-8."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        on_failure: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Ask for the client at each command; it must not decode responses.

        `on_failure` is given the step that failed: read or write.
        """
        self._client = client
        self._index = TagIndex(client, namespace)
        self._on_failure = on_failure

    async def get(self, key: str) -> Reading:
        """Return the entry in one round trip, or the right to store it in two.

        While Redis is away there is neither.
        """
        try:
            return await self._index.read(key)
        except FAILURES as error:
            self._report("read", error)
            return Reading(key, None)

    async def set_with_tags(
        self, reading: Reading, payload: bytes, *tags: str, ttl: float
    ) -> bool:
        """Store a value for `ttl` seconds; return false if it was not stored.

        It may be out of date, if one of `tags` or any pattern was invalidated since
        `get`. Who was given a value, or found Redis away, has no right to store, and
        Redis is not asked again.
        """
        milliseconds(ttl)  # whose error is not of Redis
        try:
            return await self._index.store(reading, payload, *tags, ttl=ttl)
        except FAILURES as error:
            self._report("write", error)
            return False

    async def invalidate_by_tags(self, *tags: str) -> int:
        """Remove every entry with one of these tags; return how many there were.

        What is stored with them meanwhile may be removed too.
        """
        return await self._index.invalidate(*tags)

    async def invalidate_pattern(self, pattern: str) -> int:
        """Remove every entry whose key matches; all who read before must load again."""
        root = self._index.root
        await self._client().unlink(root)  # the marks, without which nobody may store
        return await delete_matching(self._client(), f"{root}:entry:", pattern)

    def entries(
        self, *, ttl: float, tags: Callable[[str, bytes], Iterable[str]]
    ) -> "TaggedEntries":
        """Return entries for `ReadThrough`, which live `ttl` seconds.

        `tags` is given the key and the bytes that are stored.
        """
        milliseconds(ttl)
        return TaggedEntries(self._index, ttl, tags)

    def _report(self, step: str, error: Exception) -> None:
        # Not the error's text, which may quote the command, and so the value.
        logger.warning("cache manager %s: %s", step, type(error).__name__)
        try:
            self._on_failure(step)
        except Exception:  # no reason to fail the caller
            logger.exception("on_failure of a cache manager")


@dataclass(frozen=True)
class TaggedEntries:
    """What reads through a cache may use in place of `GuardedEntries`, to have tags.

    There is no lease: each process loads for itself. Raises what the client raises,
    which `ReadThrough` tells of.
    """

    index: TagIndex
    ttl: float
    tags: Callable[[str, bytes], Iterable[str]]

    async def read(self, key: str) -> Reading:
        """Return the entry, or the right to write it."""
        return await self.index.read(key)

    async def write(self, reading: Reading, payload: bytes | None) -> bool:
        """Store `payload`, unless it may be out of date; return whether it is stored.

        Who was given a value and yet writes could not decode it: it is removed.
        """
        if reading.payload is not None:
            await self.index.invalidate_key(reading.key)
            return False
        if payload is None:
            return False
        tags = None
        with suppress(Exception):  # whose text may quote the value
            tags = tuple(self.tags(reading.key, payload))
        if tags is None:
            raise ValueError("the tags of a value could not be told")
        return await self.index.store(reading, payload, *tags, ttl=self.ttl)

    async def invalidate(self, key: str) -> None:
        """Remove the entry, and with it the right of all who read it to write."""
        await self.index.invalidate_key(key)
