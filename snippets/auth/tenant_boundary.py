"""Refuse what would cross the boundary between tenants, before it is sent.

A row filter narrows statements on mapped classes, or on tables alone. Refused is the
rest: a function by itself, text that names a bounded table or has an OR beside one, a
made-up table, a table, an explicit or a full join beside classes, a write within a
statement, to an alias or by other rows, a value of the column that is not the caller's.

It guards against oversights, and not against code that means to get around it: a bare
table is overlooked in a statement that has its class too.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.sql.annotation import Annotated

from snippets.auth.statement_parts import (
    criteria_of,
    fully_joined,
    parts_of,
    raw_sql,
    rows_of,
    table_of,
    unaliased,
    values_of,
)
from snippets.database.row_filter import models_of

_QUERIES = sa.SelectBase, sa.TextClause, orm.FromStatement, sa.StatementLambdaElement


class BoundaryError(DontWrapMixin, ValueError):
    """What was to be sent would cross the boundary, or nobody can tell."""


@dataclass(frozen=True)
class Boundary:
    """The caller's rows of a mixin's models: those with `own()` in `column`."""

    mixin: type
    column: str
    own: Callable[[], object]

    @cached_property
    def parameter(self) -> sa.BindParameter[Any]:
        """What `own` returns when a statement is sent, whatever parameters it has."""
        name = f"own_{token_hex(8)}"  # any other could be among them
        return sa.bindparam(name, callable_=self.own)

    def require_own(self, *values: object) -> None:
        """Raise `BoundaryError` for a value, other than None, that is not `own()`."""
        for value in values:
            own = None if value is None else self.own()
            if isinstance(value, sa.ClauseElement) or value != own:
                raise BoundaryError(f"{self.column} is not the caller's own")

    def require_no_rows(self, value: object, *beside: object) -> None:
        """Raise `BoundaryError` for an expression that reads rows but of `beside`."""
        clause = getattr(value, "__clause_element__", lambda: value)()
        if not isinstance(clause, sa.ClauseElement):
            return
        parts, tables = parts_of(clause), models_of(self.mixin)
        named = {table for table in map(table_of, parts) if table in tables}
        nested = any(isinstance(part, sa.SelectBase) for part in parts)
        if named - {*beside} or (named and nested):
            raise BoundaryError("rows that an expression reads here are not narrowed")
        _refuse_names(parts, None, tables)

    def admit(self, state: orm.ORMExecuteState) -> None:
        """Refuse the statement that a listener was given, or leave it to the filter."""
        if state.execution_options.get("_admitted"):
            return
        state.update_execution_options(_admitted=True)  # to synchronise, it asks again
        whole: Any = state.statement
        is_write = isinstance(whole, sa.UpdateBase)
        if not (is_write or isinstance(whole, _QUERIES)):
            raise BoundaryError("not narrowed: send it in a select()")
        given: Any = state.parameters or {}
        rows = given if isinstance(given, list | tuple) else [given]
        said = [*values_of(whole)] if is_write else []
        sent = [*said, *chain(*(row.items() for row in rows))]
        read = [value for _, value in sent if isinstance(value, sa.ClauseElement)]
        parts, tables = parts_of(whole, *read), models_of(self.mixin)
        _refuse_names(parts, whole, tables)
        for criterion, named in chain(*map(criteria_of, parts)):
            self.require_no_rows(criterion, *(tables if named is None else named))
        froms = (part for part in parts if isinstance(part, sa.FromClause | sa.Column))
        mapped = {hash(part) for part in froms if not _is_bare(part)}
        for part in parts if mapped or state.is_orm_statement else ():
            if any(unaliased(one) in tables for one in _beside_classes(part, mapped)):
                raise BoundaryError("beside classes, a table or join is not narrowed")
        if not is_write or whole.table not in tables:
            return
        # Parameters may replace what the statement says.
        known = [(key, ...) for key, _ in said] + sent[len(said) :] if given else said
        self.require_own(*(value for key, value in known if key == self.column))
        read += vars(whole).get("_where_criteria", ()) if mapped else ()
        for part in _outermost(read):
            nested = isinstance(part, sa.SelectBase) and (state.is_insert or not mapped)
            other = table_of(part) in tables and rows_of(part) != whole.table
            if nested or (other and not state.is_insert):
                raise BoundaryError("a write by other rows is not narrowed: read first")


def _outermost(parts: list[Any]) -> Iterator[Any]:
    while parts:
        yield (part := parts.pop())
        parts += () if isinstance(part, sa.SelectBase) else part.get_children()


def _refuse_names(parts: list[Any], whole: object, of: dict[sa.Table, type]) -> None:
    names = {table.name.casefold() for table in of}
    if whole is None or any(table_of(part) in of for part in parts):
        names.add("or")  # text has no parentheses, and a condition is put behind it
    texts = [*chain(*map(raw_sql, parts))]
    for part in parts:
        if isinstance(part, sa.TableClause) and part not in of:
            texts.append(part.name)
        elif isinstance(part, sa.UpdateBase):
            alone = part is whole and isinstance(part.table, sa.Table)
            texts += [] if alone else [str(vars(unaliased(part.table)).get("name"))]
    if names.intersection(re.findall(r"\w+", " ".join(texts).casefold())):
        raise BoundaryError("not narrowed: text, a made-up table, or a nested write")


def _beside_classes(part: object, mapped: set[int]) -> Iterator[object]:
    """Yield the tables that a part of a statement on classes names itself."""
    inside = vars(part)
    if isinstance(part, sa.Join):
        yield from (part.left, part.right)
    elif isinstance(part, sa.Select):
        joined = (join[0] for join in inside.get("_setup_joins", ()))
        named = (*inside["_raw_columns"], *inside.get("_from_obj", ()), *joined)
        yield from chain(filter(_is_bare, named), fully_joined(part))
    elif isinstance(part, sa.UpdateBase):
        yield from filter(_is_bare, [part.table])
    elif isinstance(part, sa.Column | sa.TableValuedColumn) and _is_bare(part):
        yield from {rows_of(part)} if hash(rows_of(part)) not in mapped else ()


def _is_bare(part: object) -> bool:
    return not isinstance(part, Annotated)
