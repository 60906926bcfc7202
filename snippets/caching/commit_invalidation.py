"""Invalidate what is cached once the transaction that changed it has committed.

The tags that a transaction named are invalidated in one call, each once, after its
commit and before the commit returns, which holds no connection meanwhile. A rollback
invalidates nothing, and a savepoint's takes back what was named since it began. A
commit that raised or was cancelled may have taken place: it invalidates.

No commit fails because an invalidation does: it is told, and tried again while the
caller goes on, cancelled or not. Until one succeeds readers may be given the old value,
and if none does, or the process dies, for as long as the entry lives: let each end.

With guarded entries no reader puts an old value back whose transaction began after its
look into the cache. Do not read through the cache in a transaction that has written: no
rollback removes what that stores.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import event, orm
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.util import await_

logger = logging.getLogger(__name__)


class UnwatchedSessionError(RuntimeError):
    """Nobody would invalidate the tags; call `CommitInvalidation.install` first."""


def invalidate_on_commit(session: AsyncSession | orm.Session, *tags: str) -> None:
    """Have `tags` invalidated when the session's transaction commits, or its next one.

    Name them for each write, bulk or not: nothing is derived from statements. Raises
    `UnwatchedSessionError` for a session of another factory.
    """
    if isinstance(session, AsyncSession):
        session = session.sync_session
    if not isinstance(session, _Watched):
        raise UnwatchedSessionError("this session's commits invalidate nothing")
    _unit_of(session).tags.update(dict.fromkeys(tags))


@dataclass(frozen=True, kw_only=True)
class CommitInvalidation:
    """Calls `invalidate` with the tags of each transaction that has committed.

    How long a call takes is the client's to bound. When it raises, it is made again
    after each of `delays` in turn, in seconds. Each failure is logged without a tag,
    and `on_failure` is told "failed", or at the last "given up".
    """

    invalidate: Callable[..., Awaitable[object]]
    on_failure: Callable[[str], object] = lambda _: None
    delays: tuple[float, ...] = (0.1, 1.0, 10.0)
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    _running: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def install(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        """Watch the sessions that this factory makes from now on, and no others."""
        base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
        if issubclass(base, _Watched):
            raise TypeError("the sessions of this factory are watched already")
        watched = type("WatchedSession", (_Watched, base), {})
        event.listen(watched, "after_transaction_create", _on_begin)
        event.listen(watched, "before_commit", _on_commit)
        event.listen(watched, "after_commit", self._on_committed)
        event.listen(watched, "after_transaction_end", self._on_end)
        sessions.configure(sync_session_class=watched)

    async def drain(self) -> None:
        """Wait for all invalidations, tries to come included; call it at shutdown."""
        while self._running:
            await asyncio.wait(self._running)

    def _on_committed(self, session: orm.Session) -> None:
        unit = _unit_of(session)
        if (savepoint := session.get_nested_transaction()) is not None:
            del unit.savepoints[savepoint]  # so its tags are its parent's
        else:
            self._start(unit)  # at once: a cancellation could skip what follows

    def _on_end(self, session: orm.Session, ended: orm.SessionTransaction) -> None:
        unit = _unit_of(session)
        if ended in unit.savepoints:
            unit.tags = dict(islice(unit.tags.items(), unit.savepoints.pop(ended)))
        if ended.parent is None:
            del session.info[_Unit]
            if unit.is_committing and unit.tried is None:
                self._start(unit)
            if unit.tried is not None:  # the connection has been returned
                await_(unit.tried.wait())

    def _start(self, unit: "_Unit") -> None:
        if unit.tags:
            unit.tried = asyncio.Event()
            task = asyncio.create_task(self._deliver(tuple(unit.tags), unit.tried))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _deliver(self, tags: tuple[str, ...], tried: asyncio.Event) -> None:
        async def call() -> None:
            await self.invalidate(*tags)

        for delay in (*self.delays, None):
            try:  # whatever the call raises, the write stays committed
                (error,) = await asyncio.gather(call(), return_exceptions=True)
            finally:
                tried.set()
            if error is None:
                return
            step = "given up" if delay is None else "failed"
            logger.warning("invalidation %s: %s", step, type(error).__name__)
            asyncio.get_running_loop().call_soon(self.on_failure, step)
            if delay is not None:
                await self.sleep(delay)


class _Watched:
    """Marks the sessions of factories that invalidate."""


@dataclass
class _Unit:
    """The tags of a transaction, in order, and how many a savepoint found."""

    tags: dict[str, None] = field(default_factory=dict)
    savepoints: dict[orm.SessionTransaction, int] = field(default_factory=dict)
    is_committing: bool = False
    tried: asyncio.Event | None = None


def _unit_of(session: orm.Session) -> _Unit:
    unit: _Unit = session.info.setdefault(_Unit, _Unit())
    return unit


def _on_begin(session: orm.Session, begun: orm.SessionTransaction) -> None:
    if begun.nested:
        unit = _unit_of(session)
        unit.savepoints[begun] = len(unit.tags)


def _on_commit(session: orm.Session) -> None:
    if not session.in_nested_transaction():
        session.flush()  # if this raises, nothing has been committed
        _unit_of(session).is_committing = True
