"""Keep users and voicemail counts in namespaces of one Redis."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

from fakeredis import FakeAsyncRedis
from pydantic import BaseModel

from snippets.caching.codec import Codec, CodecError
from snippets.caching.redis_client import MISS, create_redis, namespaced


class User(BaseModel):
    """Somebody with a telephone."""

    id: int
    name: str
    credit: Decimal
    last_call: datetime | None = None


class Admin(User):
    """Somebody who may change the others."""


async def main() -> None:
    """Write, read and remove typed values."""
    client = create_redis("redis://127.0.0.1:6379/0", pool_size=10, timeout=0.5)
    print(client.connection_pool.max_connections, "connections at most, none open yet")
    # > 10 connections at most, none open yet
    await client.aclose()

    redis = FakeAsyncRedis()  # from here on, so that this runs without a server
    users = namespaced(redis, "telephony", version=1, codec=Codec(User))
    ada = User(
        id=7,
        name="Ada",
        credit=Decimal("12.50"),
        last_call=datetime(2026, 11, 22, 9, 30, tzinfo=UTC),
    )
    await users.set("user", 7, value=ada, ttl=300)
    print(users.key("user", 7))
    # > telephony:1:user:7
    print(await users.get("user", 7) == ada)
    # > True
    print(await users.get("user", 8))
    # > Missing.MISS

    greetings = namespaced(
        redis, "greetings", version=1, codec=Codec[str | None](str | None)
    )
    await greetings.set("user", 7, value=None, ttl=300)
    print(await greetings.get("user", 7) is MISS)
    # > False
    print(greetings.key("user", "*:7"))
    # > greetings:1:user:%2A%3A7

    try:
        await users.set("user", 7, value=ada, ttl=0)
    except ValueError as error:
        print(error)
        # > 0 s is not a time to live; None is for ever

    try:
        await users.set("user", 8, value=Admin(**dict(ada)), ttl=60)
    except CodecError as error:
        print(error)
        # > this Admin would come back changed as User

    print(await users.flush(), "removed")
    # > 1 removed
    print(await greetings.get("user", 7))
    # > None
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
