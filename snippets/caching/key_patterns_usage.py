"""Delete what is kept about one user, whatever that user's name is."""

import asyncio

from fakeredis import FakeAsyncRedis

from snippets.caching.key_patterns import delete_matching, literal


async def main() -> None:
    """Delete by pattern, with names that look like patterns."""
    redis = FakeAsyncRedis()
    for name in ("*", "ada", "ada2"):
        await redis.set(f"telephony:1:user:{name}:greeting", "Hello")
        await redis.set(f"telephony:1:user:{name}:voicemails", "3")
    await redis.set("billing:1:user:ada:credit", "12.50")

    print(literal("*"))
    # > \*
    for name in ("*", "ada"):
        pattern = f"user:{literal(name)}:*"
        removed = await delete_matching(redis, "telephony:1:", pattern)
        print("of", name, "removed", removed)
        # > of * removed 2
        # > of ada removed 2

    print(await delete_matching(redis, "telephony:1:", "user:ada2"), "keys removed")
    # > 0 keys removed
    print(await delete_matching(redis, "telephony:1:", "*"), "keys removed")
    # > 2 keys removed
    print(await redis.keys())
    # > [b'billing:1:user:ada:credit']
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
