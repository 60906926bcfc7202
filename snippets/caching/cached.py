"""Cache what an async function returns, by decorating it.

A hit has the value and the type of the miss, None included. The key is made of the
bound arguments, so no two different calls share an entry. However many callers miss at
once, the function runs once per process, and once in all with a `lease`. After
`invalidate`, nobody is given the old value. Exceptions are not cached. If Redis fails,
the function runs, one log record and one call of `on_failure` tell of it.

What cannot work is refused when the function is decorated: a function that is not
async, a class method, one without a return annotation, one that returns ORM objects,
and one of which nobody says whether its result depends on the tenant.

Five files travel along, each a pattern of its own: `read_through`, which has the fine
print of these promises, `codec`, `cache_key`, `single_flight` and `guarded_entry`.
"""

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from redis.asyncio import Redis

from snippets.caching.cache_key import CacheKey, KeyOptions
from snippets.caching.codec import Codec
from snippets.caching.guarded_entry import GuardedEntries
from snippets.caching.read_through import ReadThrough

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
AsyncFunction = Callable[P, Coroutine[Any, Any, R]]


@dataclass(frozen=True)
class Cache:
    """Where entries are kept, and who counts the failures.

    `client` is asked at each call, so functions can be decorated before there is one.
    Keys start with `namespace`; a new one forgets everything. `on_failure` is given the
    function's name and the step that failed: read, decode, encode or write.
    """

    client: Callable[[], Redis]
    namespace: str
    on_failure: Callable[[str, str], object] | None = None


@dataclass(eq=False)
class Cached(Generic[P, R]):
    """A cached function or method; call it as if it were not.

    `uncached` runs the function itself, and `key` returns a call's Redis key.
    """

    uncached: AsyncFunction[P, R]
    key: Callable[P, str]
    results: ReadThrough[R]

    def __post_init__(self) -> None:
        """Take the function's name, documentation and signature."""
        update_wrapper(self, self.uncached)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the kept result of this call, or run the function."""
        key = self.key(*args, **kwargs)
        return await self.results.get(key, lambda: self.uncached(*args, **kwargs))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of this call, also where it is just being computed.

        Call it once the change is committed. It raises what the client raises: the old
        result may then be served until its time is over.
        """
        await self.results.invalidate(self.key(*args, **kwargs))

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: "Cached[Concatenate[Any, Q], R]", instance: object, owner: type
    ) -> "Cached[Q, R]": ...
    def __get__(
        self: "Cached[..., R]", instance: object, owner: type
    ) -> "Cached[..., R]":
        """Bind a method to its object, as a function does."""
        if instance is None:
            return self
        bound: Cached[..., R] = Cached.__new__(Cached)
        uncached, key = partial(self.uncached, instance), partial(self.key, instance)
        vars(bound).update(vars(self), uncached=uncached, key=key)
        return bound


def cached(
    cache: Cache,
    *,
    ttl: float,
    lease: float | None = None,
    cache_none: bool = True,
    **options: Unpack[KeyOptions],
) -> Callable[[AsyncFunction[P, R]], Cached[P, R]]:
    """Keep each result for `ttl` seconds, or up to a tenth less.

    `lease` is how many seconds one process may compute a result while the others wait.
    `exclude`, `key` and `vary` say what makes two calls the same: see `KeyOptions`.
    `vary` must be given; None says that the result depends on the arguments alone.
    Raises `TypeError` for a function that cannot be cached.
    """
    entries = GuardedEntries(client=cache.client, ttl=ttl, lease=lease)

    def decorate(function: AsyncFunction[P, R]) -> Cached[P, R]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__} is not an async function")
        if [*inspect.signature(function).parameters][:1] == ["cls"]:
            # Since Python 3.13, classmethod binds the call, but not its `invalidate`.
            raise TypeError(f"{function.__qualname__} is a class method")
        key = CacheKey(function, cache.namespace, **options)
        results = ReadThrough[R](
            name=key.name,
            codec=Codec.of_result(function),
            entries=entries,
            on_failure=cache.on_failure,
            cache_none=cache_none,
        )
        return Cached(function, key, results)

    return decorate
