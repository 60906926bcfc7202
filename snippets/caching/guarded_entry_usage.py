"""Change a user while a slow reader still loads the old one."""

import asyncio

from fakeredis import FakeAsyncRedis

from snippets.caching.guarded_entry import GuardedEntries


async def main() -> None:
    """Let a slow reader lose, and one of two processes wait."""
    redis = FakeAsyncRedis()
    users = GuardedEntries(client=lambda: redis, ttl=300)

    slow = await users.read("user:7")
    print(slow.payload)
    # > None
    await users.invalidate("user:7")
    print("the slow reader stored Ada:", await users.write(slow, b"Ada"))
    # > the slow reader stored Ada: False

    later = await users.read("user:7")
    print(
        "the later one stored Ada Lovelace:", await users.write(later, b"Ada Lovelace")
    )
    # > the later one stored Ada Lovelace: True
    print((await users.read("user:7")).payload)
    # > b'Ada Lovelace'

    leased = GuardedEntries(client=lambda: redis, ttl=300, lease=10)
    first = await leased.read("user:8")
    second = asyncio.create_task(leased.read("user:8"))  # in another process, say
    await leased.write(first, b"Grace")
    print("the second process did not load, it read", (await second).payload)
    # > the second process did not load, it read b'Grace'
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
