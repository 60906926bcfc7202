"""Say in each row who created it and who changed it last, and when.

The columns fill themselves in all that SQLAlchemy sends, be it the unit of work, bulk
or Core, at no further statement. Where nobody has said who is writing, nothing is sent.
Forging is left to text, DDL, `session.connection()`, and a class without the mixin.
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
from sqlalchemy.orm import mapped_column
from sqlalchemy.sql.visitors import cloned_traverse, iterate

from snippets.database.row_filter import models_of, shares_name

ACTOR_LENGTH = 255
AUDITED = frozenset(("created_at", "created_by", "updated_at", "updated_by"))
BULK = ("bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings")

Clock = Callable[[], datetime]
Values = Mapping[Any, Any]
_utc_now = partial(datetime.now, UTC)
_author: ContextVar[tuple[str, Clock]] = ContextVar("author", default=("", _utc_now))


class NoActorError(DontWrapMixin, LookupError):
    """Nobody is known to be writing; the statement was not sent."""


@contextmanager
def set_actor(actor: str, *, clock: Clock = _utc_now) -> Iterator[None]:
    """Let what is sent inside, by a commit too, be the actor's; a clock is aware."""
    if not (0 < len(actor) <= ACTOR_LENGTH and actor.isprintable()):
        raise ValueError(f"an actor has 1 to {ACTOR_LENGTH} printable characters")
    token = _author.set((actor, lambda: clock().astimezone(UTC)))
    try:
        yield
    finally:
        _author.reset(token)


def current_actor() -> str:
    """Return the actor; raise `NoActorError` outside of `set_actor`."""
    if actor := _author.get()[0]:
        return actor
    raise NoActorError("nobody is writing: enter set_actor()")


def _once(context: ExecutionContext) -> datetime:
    time: datetime = vars(context).get("audit_time") or _author.get()[1]()
    vars(context)["audit_time"] = time  # for all rows of the statement
    return time


_at = partial(mapped_column, sa.DateTime(timezone=True), server_default=sa.func.now())
_by = partial(mapped_column, sa.String(ACTOR_LENGTH), default=current_actor)


class AuditMixin:
    """The columns, for a model that has one table to itself.

    An unchanged value is no update, save in bulk, if ordered, JSON or a parameter.
    """

    created_at: orm.Mapped[datetime] = _at(default=_once)
    created_by: orm.Mapped[str] = _by()
    updated_at: orm.Mapped[datetime] = _at(default=_once, onupdate=_once)
    updated_by: orm.Mapped[str] = _by(onupdate=current_actor)


def install_audit_mixin(sessions: async_sessionmaker[Any]) -> None:
    """Make the sessions created from now on keep the columns out of everybody's hands.

    They raise `InvalidRequestError` for a value given to one, fill them in an upsert,
    and keep them in a row that a bulk UPDATE leaves as it is. Refresh instances after.
    """

    def refuse(*_: object, **__: object) -> None:
        raise InvalidRequestError("bulk methods check no value: send a statement")

    base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
    own = type(base.__name__, (base,), dict.fromkeys(BULK, refuse))
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
    tables = {each for each in models_of(AuditMixin) if "created_at" in each.c}
    writes = (e for e in iterate(whole) if isinstance(e, sa.Insert | sa.Update))
    if not (found := [each for each in writes if shares_name(each.table, tables)]):
        return
    if found != [statement] or statement.table not in tables:
        raise InvalidRequestError("write to a model itself, and not within a query")
    inside, given, old = vars(statement), state.parameters or (), statement.table.c
    values, many = inside.get("_values", {}), inside.get("_multi_values", ())
    rows = chain(*many, [given] if isinstance(given, dict) else given)
    named = (row if isinstance(row, dict) else old.keys()[: len(row)] for row in rows)
    _refuse(chain(values, inside.get("_select_names", ()), *named))

    def stamp(upsert: object) -> None:  # in which SQLAlchemy heeds no `onupdate`
        sets = vars(upsert)["update_values_to_set"]
        _refuse(sets)
        new = {key: statement.excluded[key] for key in ("updated_at", "updated_by")}
        vars(upsert)["update_values_to_set"] = {**sets, **_if_changed(old, sets, new)}

    loose = given or statement is not whole or "_maintain_values_ordering" in inside
    if "_post_values_clause" in inside:
        state.statement = cloned_traverse(whole, {}, {"on_conflict_do_update": stamp})
    elif values and state.is_update and not loose:
        now = sa.literal(_author.get()[1](), old.updated_at.type)
        new = {"updated_at": now, "updated_by": current_actor()}
        state.statement = statement.values(_if_changed(old, values, new))


def _if_changed(old: Values, values: Values, stamps: Values) -> Values:
    changed = sa.or_(*(_differs(old[getattr(k, "key", k)], values[k]) for k in values))
    return {key: sa.case((changed, stamps[key]), else_=old[key]) for key in stamps}


def _differs(column: sa.Column[Any], new: object) -> sa.ColumnElement[bool]:
    if isinstance(getattr(column.type, "impl_instance", column.type), sa.JSON):
        return sa.true()  # PostgreSQL cannot compare two values of type json
    if isinstance(new, sa.BindParameter):
        new = sa.literal(new.effective_value, column.type)
    return column.is_distinct_from(new)


def _refuse(keys: Iterable[object]) -> None:
    for name in AUDITED.intersection(getattr(key, "key", key) for key in keys):
        raise InvalidRequestError(f"{name} is for the audit mixin to set")
