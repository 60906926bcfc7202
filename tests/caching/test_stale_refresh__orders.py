"""In whatever order things happen, nobody is given what was invalidated before."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.redis_servers import FakeRedisServer, fake_redis
from tests.support.stale_refresh import DUE, LEASE, Service, User, Users

KEY = "user:7"


@dataclass
class Story:
    """Two processes, a user whose name is her version, and the loads that are held."""

    server: FakeRedisServer
    service: Service = field(default_factory=Service)
    version: int = 0
    held: list[asyncio.Event] = field(default_factory=list)
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start both processes."""
        self.processes = [self.service.users(self.server.client()) for _ in range(2)]

    async def load(self) -> User | None:
        """Return the user as she is when the load begins."""
        loaded = User(name=str(self.version))
        self.held.append(asyncio.Event())
        await self.held[-1].wait()
        return loaded

    async def read(self, users: Users) -> None:
        """Require a user who is as new as when she was asked for."""
        asked = self.version
        found = await users.get(KEY, self.load)
        assert found is not None
        assert int(found.name) >= asked

    async def tell(self, what: str, *, other: bool) -> None:
        """Let one thing happen; `other` says in which process, to which load, how long.

        Nothing is waited for but an invalidation.
        """
        users = self.processes[other]
        if what == "read":
            self.readers.append(asyncio.create_task(self.read(users)))
        elif what == "change":
            self.version += 1
            await users.invalidate(KEY)
        elif what == "wait":
            self.service.now += LEASE if other else DUE
        elif self.held:
            self.held.pop(-other).set()

    async def end(self) -> None:
        """Let all loads end, and all readers be given their user."""
        while len(asyncio.all_tasks()) > 1:
            while self.held:
                self.held.pop().set()
            await asyncio.sleep(0)
        await asyncio.gather(*self.readers)


A_REFRESH_RUNS = [("read", False), ("load", False), ("wait", False), ("read", False)]
STEPS = st.tuples(st.sampled_from(["read", "change", "wait", "load"]), st.booleans())


@settings(deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_nobody_is_given_what_was_invalidated_before_it_asked(
    steps: list[tuple[str, bool]],
) -> None:
    async def tell() -> None:
        async with asyncio.timeout(60), fake_redis() as server:
            story = Story(server)
            for what, other in A_REFRESH_RUNS + steps:
                await story.tell(what, other=other)
                for _ in range(20):
                    await asyncio.sleep(0)  # all go as far as they can
            await story.end()
            await story.tell("read", other=True)  # what has been stored in the end
            await story.end()

    asyncio.run(tell())
