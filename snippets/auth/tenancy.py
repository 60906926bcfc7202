"""Keep the rows of each tenant to that tenant, in whatever a session sends.

Reads, refreshes, loads of relationships, UPDATE, DELETE and upserts are narrowed when
they are sent; what an INSERT does not say is filled in. Without a tenant nothing of a
tenant's is read or written. `tenant_boundary` refuses what cannot be narrowed. Only
`row_level_security` holds back what is sent through `session.connection()`, and an
instance that was made up by hand as if it had been loaded.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NoReturn
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.ext.asyncio import async_sessionmaker

from snippets.auth.statement_parts import mapped_columns
from snippets.auth.tenant_boundary import Boundary, BoundaryError
from snippets.database.row_filter import RowFilter, hiding, models_of

_scope: ContextVar[UUID | Literal["all"] | None] = ContextVar("tenant", default=None)


class NoTenantError(DontWrapMixin, LookupError):
    """Nobody said for which tenant this is; the statement was not sent."""


@contextmanager
def set_tenant(tenant: UUID) -> Iterator[None]:
    """Let what is sent inside the block, and by tasks started in it, be the tenant's.

    A commit sends too, so it belongs inside. The innermost block counts.
    """
    if not isinstance(tenant, UUID):
        raise TypeError("a tenant is named by its UUID")
    token = _scope.set(tenant)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def bypass_tenancy() -> Iterator[None]:
    """Let what the block and its tasks send be unnarrowed: a row names its tenant."""
    token = _scope.set("all")
    try:
        yield
    finally:
        _scope.reset(token)


def current_tenant() -> UUID:
    """Return the tenant; raise `NoTenantError` if there is none, or all are meant."""
    if isinstance(tenant := _scope.get(), UUID):
        return tenant
    raise NoTenantError("no tenant: enter set_tenant(), or bypass_tenancy()")


class TenantMixin:
    """Whose a row is, for a model that has one table to itself."""

    tenant_id: orm.Mapped[UUID] = orm.mapped_column(default=current_tenant, index=True)


def install_tenancy(sessions: async_sessionmaker[Any]) -> None:
    """Make the sessions created from now on, and no others, keep tenants apart.

    Import the models first: it raises what `check_tables` does.
    """
    check_tables(TenantMixin)
    base = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
    own = hiding(base, _is_hidden)
    for name in ("bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"):
        setattr(own, name, _refuse_legacy)
    event.listen(own, "do_orm_execute", _before_statement)
    event.listen(own, "before_flush", _check_flush)
    event.listen(own, "after_flush", _check_flush)  # what a relationship has set
    sessions.configure(sync_session_class=own)


def check_tables(mixin: type) -> None:
    """Raise `TypeError` for a constraint that leaves `tenant_id` out.

    A unique one would tell that another tenant has such a row, and a foreign key from
    any table would lead to one. Raise `BoundaryError` for a mapped expression that
    reads such rows. Models that are imported later are not seen.
    """
    orm.configure_mappers()
    tables, boundary = models_of(mixin), Boundary(mixin, "tenant_id", current_tenant)
    for expression, own in mapped_columns(*tables.values()):
        boundary.require_no_rows(expression, *own)
    for table in {each for one in tables for each in one.metadata.tables.values()}:
        keys = table.foreign_key_constraints
        for key in keys:
            wider = (one for one in keys if {*key.columns} <= {*one.columns})
            links = (link for one in wider for link in one.elements)
            names = {(link.parent.name, link.column.name) for link in links}
            if key.referred_table in tables and ("tenant_id",) * 2 not in names:
                raise TypeError(f"a foreign key of {table.name} leaves out tenant_id")
        for rule in (*table.constraints, *table.indexes) if table in tables else ():
            unique = getattr(rule, "unique", isinstance(rule, sa.UniqueConstraint))
            columns = {*getattr(rule, "columns", ())}
            apart = table.c.tenant_id in columns or columns >= {*table.primary_key}
            if unique and not apart:
                raise TypeError(f"{table.name} has a unique rule without tenant_id")


_BOUNDARY = Boundary(TenantMixin, "tenant_id", current_tenant)


def _is_own(row: type[TenantMixin]) -> sa.ColumnElement[bool]:
    return row.tenant_id == _BOUNDARY.parameter


_OWN = RowFilter(TenantMixin, _is_own)


def _before_statement(state: orm.ORMExecuteState) -> None:
    if _scope.get() != "all":
        if not state.is_relationship_load:
            _BOUNDARY.admit(state)
        _OWN.apply(state)


def _is_hidden(row: object, _: Mapping[str, Any]) -> bool:
    whose = {"all", vars(row).get("tenant_id", ...)} if row is not None else ()
    return isinstance(row, TenantMixin) and _scope.get() not in whose


def _check_flush(session: orm.Session, *_: object) -> None:
    for row in (*session.new, *session.dirty, *session.deleted):
        if _scope.get() == "all":
            return
        state: orm.InstanceState[Any] = sa.inspect(row)
        for value in state.dict.values():
            _BOUNDARY.require_no_rows(value, *state.mapper.tables)
        if isinstance(row, TenantMixin):
            # What was set before it was loaded may have taken the row from another.
            history = state.attrs.tenant_id.history
            unseen = [...] if history.added and state.has_identity else []
            _BOUNDARY.require_own(row.tenant_id, *(history.deleted or unseen))


def _refuse_legacy(*_: object, **__: object) -> NoReturn:
    raise BoundaryError("the legacy bulk methods are not narrowed: use execute()")
