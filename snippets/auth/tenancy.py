"""Keep the rows of each tenant to that tenant, in whatever a session sends.

Reads, refreshes, loads of relationships, UPDATE, DELETE and upserts are narrowed when
they are sent; what an INSERT does not say is filled in. Without a tenant nothing of a
tenant's is read or written. What cannot be narrowed is refused: text that names such a
table, tables beside classes, a write within another statement, the legacy bulk methods.
Beyond reach are `session.connection()`, and an instance that was made up by hand as if
it had been loaded: `row_level_security` holds those back too, in the database.
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
    """Let what is sent inside the block, and by tasks started in it, be unnarrowed.

    A new row must then name its tenant.
    """
    token = _scope.set("all")
    try:
        yield
    finally:
        _scope.reset(token)


def current_tenant() -> UUID:
    """Return the tenant; raise `NoTenantError` if there is none, or all are meant."""
    tenant = _scope.get()
    if isinstance(tenant, UUID):
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
    any table would lead to one. Models that are imported later are not seen.
    """
    orm.configure_mappers()
    tables = models_of(mixin)
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
    if _scope.get() == "all":
        return
    if not (state.is_column_load or state.is_relationship_load):
        _BOUNDARY.admit(state)
    _OWN.apply(state)


def _is_hidden(row: object, _: Mapping[str, Any]) -> bool:
    if not isinstance(row, TenantMixin) or _scope.get() == "all":
        return False
    return bool(vars(row).get("tenant_id", ...) != _scope.get())


def _check_flush(session: orm.Session, *_: object) -> None:
    if _scope.get() == "all":
        return
    for row in (*session.new, *session.dirty, *session.deleted):
        if isinstance(row, TenantMixin):  # if the tenant is not loaded, now it is
            before = sa.inspect(row).attrs.tenant_id.history.deleted or ()
            _BOUNDARY.require_own(row.tenant_id, *before)


def _refuse_legacy(*_: object, **__: object) -> NoReturn:
    raise BoundaryError("the legacy bulk methods are not narrowed: use execute()")
