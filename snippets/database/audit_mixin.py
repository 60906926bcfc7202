"""Say in each row who created it and who changed it last, and when.

The columns fill themselves in all that SQLAlchemy sends, be it the unit of work, bulk
or Core, at no further statement. Where nobody has said who is writing, nothing is sent.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.exc import DontWrapMixin, InvalidRequestError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql import visitors

ACTOR_LENGTH = 255
AUDITED = frozenset(("created_at", "created_by", "updated_at", "updated_by"))

Clock = Callable[[], datetime]
Values = Mapping[Any, Any]
_utc_now = partial(datetime.now, UTC)
_author: ContextVar[tuple[str, Clock]] = ContextVar("author", default=("", _utc_now))


class NoActorError(DontWrapMixin, LookupError):
    """Nobody is known to be writing; the statement was not sent."""


@contextmanager
def set_actor(actor: str, *, clock: Clock = _utc_now) -> Iterator[None]:
    """Let what is sent inside the block be the actor's doing.

    A commit sends too, so it belongs inside. `clock` returns an aware time.
    """
    if not (0 < len(actor) <= ACTOR_LENGTH and actor.isprintable()):
        raise ValueError(f"an actor has 1 to {ACTOR_LENGTH} printable characters")
    token = _author.set((actor, clock))
    try:
        yield
    finally:
        _author.reset(token)


def current_actor() -> str:
    """Return the actor; raise `NoActorError` outside of `set_actor`."""
    if actor := _author.get()[0]:
        return actor
    raise NoActorError("nobody is writing: enter set_actor()")


def _now() -> datetime:
    return _author.get()[1]().astimezone(UTC)


def _once(context: ExecutionContext) -> datetime:
    """Return the time, which for all rows of one statement is the same."""
    time: datetime = vars(context).get("audit_time") or _now()
    vars(context)["audit_time"] = time
    return time


_at = partial(mapped_column, sa.DateTime(timezone=True), server_default=sa.func.now())
_by = partial(mapped_column, sa.String(ACTOR_LENGTH), default=current_actor)


class AuditMixin:
    """The columns, for a model that has one table to itself.

    An unchanged value is no update, save in bulk, if ordered, JSON or a parameter.
    """

    created_at: Mapped[datetime] = _at(default=_once, info={"audit": True})
    created_by: Mapped[str] = _by()
    updated_at: Mapped[datetime] = _at(default=_once, onupdate=_once)
    updated_by: Mapped[str] = _by(onupdate=current_actor)


def install_audit_mixin(sessions: async_sessionmaker[Any]) -> None:
    """Make the sessions created from now on keep the columns out of everybody's hands.

    They raise `InvalidRequestError` for a value given to one, fill them in an upsert,
    and keep them in a row that a bulk UPDATE leaves as it is. Refresh instances after.
    """
    base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
    own = type(base.__name__, (base,), {})
    event.listen(own, "before_flush", _before_flush)
    event.listen(own, "do_orm_execute", _before_statement)
    sessions.configure(sync_session_class=own)


def _before_flush(session: orm.Session, *_: object) -> None:
    for row in (*session.new, *session.dirty):
        if isinstance(row, AuditMixin):
            _refuse(it.key for it in sa.inspect(row).attrs if it.history.added)


def _before_statement(state: orm.ORMExecuteState) -> None:
    whole: Any = state.statement
    statement = getattr(whole, "element", whole)  # it may be within from_statement()
    if not (state.is_insert or state.is_update):
        return
    parts, given, old = vars(statement), state.parameters or (), statement.table.c
    if "audit" not in getattr(old.get("created_at"), "info", ()):
        return
    values, many = parts.get("_values", {}), parts.get("_multi_values", ())
    rows = chain(*many, [given] if isinstance(given, dict) else given)
    named = (row if isinstance(row, dict) else old.keys()[: len(row)] for row in rows)
    _refuse(chain(values, parts.get("_select_names", ()), *named))

    def stamp(upsert: object) -> None:  # in which SQLAlchemy heeds no `onupdate`
        sets = vars(upsert)["update_values_to_set"]
        _refuse(sets)
        new = {key: statement.excluded[key] for key in ("updated_at", "updated_by")}
        vars(upsert)["update_values_to_set"] = {**sets, **_if_changed(old, sets, new)}

    loose = given or statement is not whole or "_maintain_values_ordering" in parts
    if "_post_values_clause" in parts:
        stamps = {"on_conflict_do_update": stamp}
        state.statement = visitors.cloned_traverse(whole, {}, stamps)
    elif values and state.is_update and not loose:
        now = sa.literal(_now(), old.updated_at.type)
        new = {"updated_at": now, "updated_by": current_actor()}
        state.statement = statement.values(_if_changed(old, values, new))


def _if_changed(old: Values, values: Values, stamps: Values) -> Values:
    """Return the stamps for a row which the values change, and for others the old."""
    keys = {key: getattr(key, "key", key) for key in values}
    changed = sa.or_(*(_differs(old[keys[key]], values[key]) for key in values))
    return {key: sa.case((changed, stamps[key]), else_=old[key]) for key in stamps}


def _differs(column: sa.Column[Any], new: object) -> sa.ColumnElement[bool]:
    if isinstance(column.type, sa.JSON):
        return sa.true()  # PostgreSQL cannot compare two values of type json
    if isinstance(new, sa.BindParameter):
        new = sa.literal(new.effective_value, column.type)
    return column.is_distinct_from(new)


def _refuse(keys: Iterable[object]) -> None:
    for name in AUDITED.intersection(getattr(key, "key", key) for key in keys):
        raise InvalidRequestError(f"{name} is for the audit mixin to set")
