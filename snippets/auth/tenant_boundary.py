"""Refuse what would cross the boundary between tenants, before it is sent.

A row filter narrows statements on mapped classes, or on tables alone. Refused is the
rest: text or a made-up table that names a bounded one, a table or an explicit join
beside classes, a write within a statement, to an alias or by other rows that are not
narrowed, a value of the column that is not the caller's. An upsert is narrowed.

It guards against oversights, and not against code that means to get around it: a bare
table is overlooked in a statement that has its class too.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.sql import visitors
from sqlalchemy.sql.annotation import Annotated

from snippets.database.row_filter import models_of


class BoundaryError(DontWrapMixin, ValueError):
    """What was to be sent would cross the boundary, or nobody can tell."""


@dataclass(frozen=True)
class Boundary:
    """The caller's rows of a mixin's models: those with `own()` in `column`."""

    mixin: type
    column: str
    own: Callable[[], object]

    def require_own(self, *values: object) -> None:
        """Raise `BoundaryError` for a value, other than None, that is not `own()`."""
        for value in values:
            own = None if value is None else self.own()
            if isinstance(value, sa.ClauseElement) or value != own:
                raise BoundaryError(f"{self.column} is not the caller's own")

    @cached_property
    def parameter(self) -> sa.BindParameter[Any]:
        """What `own` returns at the time when a statement is sent."""
        return sa.bindparam(None, callable_=self.own)

    def admit(self, state: orm.ORMExecuteState) -> None:
        """Refuse the statement that a listener was given, or leave it to the filter."""
        if state.execution_options.get("_admitted"):
            return
        state.update_execution_options(_admitted=True)  # to synchronise, it asks again
        whole: Any = state.statement
        tables = models_of(self.mixin)
        parts = [*visitors.iterate(whole)]
        rows = (part for part in parts if isinstance(part, sa.FromClause | sa.Column))
        mapped = {hash(part) for part in rows if not _is_bare(part)}
        for part in parts:
            _refuse_part(part, whole, tables)
            beside = _beside_classes(part, mapped) if mapped else ()
            if any(_unaliased(table) in tables for table in beside):
                raise BoundaryError("beside classes, a table or join is not narrowed")
        if not isinstance(whole, sa.UpdateBase) or whole.table not in tables:
            return
        values = [*_values(whole, state.parameters)]
        self.require_own(*(value for key, value in values if key == self.column))
        read = [value for _, value in values if isinstance(value, sa.ClauseElement)]
        read += vars(whole).get("_where_criteria", ()) if mapped else ()
        for part in _outermost(read):
            nested = isinstance(part, sa.SelectBase) and (state.is_insert or not mapped)
            other = getattr(part, "table", whole.table) != whole.table
            if nested or (other and _unaliased(part.table) in tables):
                raise BoundaryError("a write by other rows is not narrowed: read first")
        if "_post_values_clause" in vars(whole):
            narrow = partial(self._narrow, whole.table.c[self.column] == self.parameter)
            stamps = {"on_conflict_do_update": narrow}
            state.statement = visitors.cloned_traverse(whole, {}, stamps)

    def _narrow(self, own: sa.ColumnElement[bool], upsert: sa.ClauseElement) -> None:
        clause = vars(upsert)
        nested = any(isinstance(p, sa.SelectBase) for p in visitors.iterate(upsert))
        sets, where = clause["update_values_to_set"], clause["update_whereclause"]
        if nested or self.column in {getattr(key, "key", key) for key in sets}:
            raise BoundaryError(f"an upsert sets no {self.column}, nor by a query")
        clause["update_whereclause"] = own if where is None else own & where


def _values(whole: sa.UpdateBase, given: object) -> Iterator[tuple[object, Any]]:
    """Yield what an INSERT or UPDATE gives its columns, wherever it is written."""
    inside, columns = vars(whole), whole.table.c
    if inside.get("_prefixes"):
        raise BoundaryError("a prefix such as OR REPLACE can overwrite other rows")
    yield from dict.fromkeys(inside.get("_select_names", ()), ...).items()
    rows = [inside.get("_values", {}), *chain(*inside.get("_multi_values", ()))]
    rows += given if isinstance(given, list) else [given or {}]
    for row in rows:
        pairs = row if isinstance(row, dict) else zip(columns, row, strict=False)
        for key, value in dict(pairs).items():
            known = isinstance(value, sa.BindParameter) and not value.required
            yield getattr(key, "key", key), value.effective_value if known else value


def _outermost(parts: list[Any]) -> Iterator[Any]:
    while parts:
        part = parts.pop()
        yield part
        parts += () if isinstance(part, sa.SelectBase) else part.get_children()


def _refuse_part(part: object, whole: object, tables: Collection[sa.Table]) -> None:
    words: list[str] = []
    if isinstance(part, sa.TextClause):
        words = re.findall(r"\w+", part.text)
    elif isinstance(part, sa.TableClause) and part not in tables:
        words = [part.name]
    elif isinstance(part, sa.UpdateBase):
        alone = part is whole and isinstance(part.table, sa.Table)
        words = [] if alone else [str(vars(_unaliased(part.table)).get("name"))]
    names = {table.name.casefold() for table in tables}
    if names.intersection(word.casefold() for word in words):
        raise BoundaryError("not narrowed: text, a made-up table, or a nested write")


def _beside_classes(part: object, mapped: set[int]) -> Iterator[object]:
    """Yield the tables that a part of a statement on classes names itself."""
    inside = vars(part)
    if isinstance(part, sa.Join):
        yield from (part.left, part.right)
    elif isinstance(part, sa.Select):
        joined = (join[0] for join in inside.get("_setup_joins", ()))
        named = (*inside["_raw_columns"], *inside.get("_from_obj", ()), *joined)
        yield from filter(_is_bare, named)
    elif isinstance(part, sa.UpdateBase):
        yield from filter(_is_bare, [part.table])
    elif isinstance(part, sa.Column) and _is_bare(part):
        yield from {part.table} if hash(part.table) not in mapped else ()


def _is_bare(part: object) -> bool:
    return not isinstance(part, Annotated)


def _unaliased(table: object) -> object:
    while isinstance(table, sa.Alias):
        table = table.element
    return table
