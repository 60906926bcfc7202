"""Store who is on call with the tags of all concerned, and remove it by one of them."""

import asyncio

from fakeredis import FakeAsyncRedis

from snippets.caching.tag_index import TagIndex


async def main() -> None:
    """Remove by tag and by key, and refuse who began before."""
    redis = FakeAsyncRedis()
    index = TagIndex(lambda: redis, "telephony:1:acme")

    for night, user in {"monday": "ada", "tuesday": "grace", "friday": "ada"}.items():
        reading = await index.read(night)
        stored = await index.store(reading, user.encode(), "nights", user, ttl=300)
        print(night, "is kept:", stored)
        # > monday is kept: True
        # > tuesday is kept: True
        # > friday is kept: True
    print((await index.read("tuesday")).payload)
    # > b'grace'

    slow = await index.read("sunday")
    print(await index.invalidate("ada"), "nights removed")
    # > 2 nights removed
    print("an old Sunday is kept:", await index.store(slow, b"ada", "ada", ttl=300))
    # > an old Sunday is kept: False

    print("Tuesday was there:", await index.invalidate_key("tuesday"))
    # > Tuesday was there: True
    print(await index.invalidate("nights"), "nights left")
    # > 0 nights left
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
