"""Cache a directory of users for two tenants, and change one of its users."""

import asyncio
from contextvars import ContextVar

from fakeredis import FakeAsyncRedis
from pydantic import BaseModel

from snippets.caching.cached import Cache, cached

tenant: ContextVar[str] = ContextVar("tenant")


class User(BaseModel):
    """Somebody with a telephone."""

    name: str
    extensions: tuple[str, ...] = ()


async def main() -> None:
    """Count how often the directory itself is asked."""
    redis = FakeAsyncRedis()
    cache = Cache(client=lambda: redis, namespace="telephony:1")
    directory = {("acme", 7): User(name="Ada", extensions=("1001", "1002"))}
    lookups = 0

    @cached(cache, ttl=300, vary=tenant.get)
    async def get_user(user_id: int) -> User | None:
        nonlocal lookups
        lookups += 1
        return directory.get((tenant.get(), user_id))

    tenant.set("acme")
    print(await get_user(7))
    # > name='Ada' extensions=('1001', '1002')
    print(await get_user(user_id=7))
    # > name='Ada' extensions=('1001', '1002')
    print("lookups:", lookups)
    # > lookups: 1

    users = await asyncio.gather(*(get_user(8) for _ in range(200)))
    print(users.count(None), "strangers, lookups:", lookups)
    # > 200 strangers, lookups: 2

    tenant.set("globex")
    print(await get_user(7), "lookups:", lookups)
    # > None lookups: 3

    tenant.set("acme")
    directory["acme", 7] = User(name="Ada Lovelace")
    await get_user.invalidate(7)
    print(await get_user(7))
    # > name='Ada Lovelace' extensions=()
    print(await get_user.uncached(7))
    # > name='Ada Lovelace' extensions=()
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
