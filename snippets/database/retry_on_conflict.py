"""Do a unit of work again, from its reads on, when another transaction was faster.

Each attempt has a session and a transaction of its own, so nothing that the last one
read is written. The attempts are counted, and a pause of random length lets the winner
commit first. A cancellation and any other error pass at once. What `work` does outside
of the database, it does once per attempt. A commit whose connection was lost is not
tried again, since it may have taken place.

Source: https://www.postgresql.org/docs/15/mvcc-serialization-failure-handling.html
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from snippets.database.async_session import session_scope

R = TypeVar("R")

LOST_RACES = frozenset(("40001", "40P01"))
"""PostgreSQL's states of a serialization failure and of a deadlock."""


async def retry_on_conflict(
    sessions: async_sessionmaker[AsyncSession],
    work: Callable[[AsyncSession], Awaitable[R]],
    *,
    attempts: int = 3,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> R:
    """Return what `work` does in a transaction that no other one has crossed.

    After the last attempt the conflict is raised. The n-th pause takes up to 2 ** n
    times 50 ms, and never more than a second. It is not meant for what a user has
    decided by an old state: that user must look again.
    """
    if attempts < 1:
        raise ValueError("attempts must be 1 or more")
    attempt = 0
    while True:
        attempt += 1
        try:
            async with session_scope(sessions) as session:
                return await work(session)
        except (StaleDataError, DBAPIError) as error:
            if attempt == attempts or not is_conflict(error):
                raise
        await sleep(random.SystemRandom().uniform(0, 0.05 * min(2**attempt, 20)))


def is_conflict(error: Exception) -> bool:
    """Return whether a transaction was rolled back because another one was faster.

    On SQLite that includes a writer that read before it wrote, or waited too long.
    """
    if not isinstance(error, DBAPIError):
        return isinstance(error, StaleDataError)
    is_busy = getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY")
    return is_busy or getattr(error.orig, "sqlstate", None) in LOST_RACES
