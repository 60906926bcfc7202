"""Delete the Redis keys that match a pattern, and no others, and hold nobody up.

`delete_matching` takes keys in batches of 500, so its memory is bounded, and others are
served in between. No key outside its prefix is touched. Each command names keys of one
slot, so all of this holds on a Redis Cluster too. What fails or is cancelled half-way
can be repeated. A key that is set meanwhile may be left.

`literal` makes a pattern of text that somebody else chose, such as a user's name.

All keys of the server are gone through, whosever they are. Raises what the client
raises.
"""

import re

from redis.asyncio import Redis, RedisCluster

BATCH = 500


async def delete_matching(
    client: Redis | RedisCluster, prefix: str, pattern: str
) -> int:
    r"""Delete the keys that are `prefix` and then match; return how many there were.

    In `pattern`, `*`, `?`, `[...]` and `\` mean what they mean to SCAN; in `prefix`
    they mean themselves. The whole key must match: `user:1` does not match `user:10`.
    """
    removed = 0
    batch: list[bytes | str] = []
    async for key in client.scan_iter(match=literal(prefix) + pattern, count=BATCH):
        batch.append(key)
        if len(batch) == BATCH:
            removed += await client.unlink(*batch)
            batch.clear()
    return removed + (await client.unlink(*batch) if batch else 0)


def literal(text: str) -> str:
    """Return the pattern that matches this text and nothing else."""
    return re.sub(r"[*?\[\]\\]", r"\\\g<0>", text)
