"""Show a tenant's open calls with Redis up, down, and full of nonsense."""

import asyncio
import logging
from collections import Counter

from fakeredis import FakeAsyncRedis, FakeServer

from snippets.caching.codec import Codec
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.read_through import ReadThrough


async def main() -> None:
    """Ask the same question in good times and in bad."""
    logging.disable()  # the example counts the failures instead
    server = FakeServer()
    redis = FakeAsyncRedis(server=server)
    failures: Counter[tuple[str, str]] = Counter()
    open_calls = ReadThrough(
        name="open calls",
        codec=Codec(list[str]),
        entries=GuardedEntries(client=lambda: redis, ttl=60),
        on_failure=lambda name, step: failures.update([(name, step)]),
    )
    loads = 0

    async def load() -> list[str]:
        nonlocal loads
        loads += 1
        return ["1001 to 1002"]

    print(await open_calls.get("acme", load), "after", loads, "load")
    # > ['1001 to 1002'] after 1 load
    print(await open_calls.get("acme", load), "after", loads, "load")
    # > ['1001 to 1002'] after 1 load

    server.connected = False
    print(await open_calls.get("acme", load), "after", loads, "loads")
    # > ['1001 to 1002'] after 2 loads
    server.connected = True

    await redis.set("acme", b"=nonsense")
    print(await open_calls.get("acme", load), "after", loads, "loads")
    # > ['1001 to 1002'] after 3 loads
    print(await open_calls.get("acme", load), "after", loads, "loads")
    # > ['1001 to 1002'] after 3 loads

    print(dict(failures))
    # > {('open calls', 'read'): 1, ('open calls', 'decode'): 1}
    logging.disable(logging.NOTSET)
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
