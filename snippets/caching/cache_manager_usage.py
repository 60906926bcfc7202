"""Change a user who is in several cached teams, and let all of these teams go."""

import asyncio

from fakeredis import FakeAsyncRedis
from pydantic import BaseModel

from snippets.caching.cache_manager import CacheManager
from snippets.caching.codec import Codec


class User(BaseModel):
    """Somebody with a telephone."""

    id: int
    name: str


TEAM = Codec(list[User])


async def main() -> None:
    """Cache teams, and invalidate them by tag and by pattern."""
    redis = FakeAsyncRedis()
    acme = CacheManager(lambda: redis, "telephony:1:acme")
    names = {7: "Ada", 8: "Grace"}
    members = {"sales": [7], "support": [7, 8], "night": [8]}

    async def team(name: str) -> str:
        reading = await acme.get(f"team:{name}")
        if reading.payload is not None:
            users = TEAM.decode(reading.payload)
            return f"kept: {', '.join(user.name for user in users)}"
        users = [User(id=user_id, name=names[user_id]) for user_id in members[name]]
        tags = [f"team:{name}", *(f"user:{user.id}" for user in users)]
        await acme.set_with_tags(reading, TEAM.encode(users), *tags, ttl=300)
        return f"loaded: {', '.join(user.name for user in users)}"

    for name in (*members, *members):
        print(await team(name))
        # > loaded: Ada
        # > loaded: Ada, Grace
        # > loaded: Grace
        # > kept: Ada
        # > kept: Ada, Grace
        # > kept: Grace

    slow = await acme.get("user:7")  # another process begins to load the old name
    names[7] = "Ada Lovelace"
    print(await acme.invalidate_by_tags("user:7"), "teams removed")
    # > 2 teams removed
    print("stored:", await acme.set_with_tags(slow, b'"Ada"', "user:7", ttl=300))
    # > stored: False
    for name in members:
        print(await team(name))
        # > loaded: Ada Lovelace
        # > loaded: Ada Lovelace, Grace
        # > kept: Grace

    print(await acme.invalidate_pattern("team:s*"), "teams removed")
    # > 2 teams removed
    print(await team("night"))
    # > kept: Grace
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
