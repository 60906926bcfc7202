"""Add a condition on the rows of some tables to a statement, wherever it names them.

Subqueries, CTEs and joins are narrowed, and what a write reads, changes or merges into.
An outer join keeps the row whose partner is hidden. Mapped classes are left to
`with_loader_criteria`, but for those that an UPDATE or DELETE reads beside its own.
Refused are `sa.join()`, `sa.alias()` and full joins of classes, a SELECT among rows of
values or in the FROM of a write, a write within a statement, and text with an OR, which
the condition would follow. Text, a double, a table beside its class are not narrowed.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.sql import util, visitors
from sqlalchemy.sql.annotation import Annotated
from sqlalchemy.util import immutabledict

Element: TypeAlias = Any
Tables: TypeAlias = Collection[Element]
Condition: TypeAlias = Callable[[Element], sa.ColumnElement[bool]]
REFUSED = "not narrowed: use Select.join(), not in full, aliased, or_(); nest no write"
MADE = sa.Join | sa.Alias | sa.TableSample
_sides: Callable[[Element], Iterator[Element]] = util.surface_selectables  # of a join
OR = re.compile(r"\bor\b", re.IGNORECASE)


def narrow_tables(
    statement: Element, tables: Tables, condition: Condition, given: object = None
) -> Element:
    """Return the statement with the condition, or itself if there is nothing to add.

    Takes a condition on a table's `c`, and parameters. Raises `InvalidRequestError`.
    """
    parts = [*visitors.iterate(statement)]
    refuse_parts(statement, tables)
    if any(part in tables for part in _in_rows(statement, given)):
        raise InvalidRequestError("a SELECT among rows of values: send it by itself")
    nested = any(isinstance(part, sa.SelectBase) for part in parts)
    if isinstance(statement, sa.Update | sa.Delete):
        target = statement.table
        surface = chain(*map(util.surface_expressions, statement.get_children()))
        beside = [getattr(part, "table", target) for part in surface]
        for table in dict.fromkeys([target, *beside]):
            of_class = table is target and isinstance(target, Annotated)
            if (base := table_of(table)) in tables and not of_class:
                statement = statement.where(condition(table.c))
            elif base in tables and isinstance(table, sa.Alias):
                raise InvalidRequestError("not narrowed: write to no alias of a class")
            read = () if base is None or base in tables else visitors.iterate(base)
            bare = (each for each in read if not isinstance(each, Annotated))
            if any(table_of(each) in tables for each in bare):
                raise InvalidRequestError("not narrowed: use IN or EXISTS in a write")
    if nested or any("update_whereclause" in vars(part) for part in parts):
        return _Narrowing(statement, tables, condition).narrow()
    return statement


def table_of(part: Element) -> Element:
    """Return the table that a part is a column or an alias of, or the part itself."""
    table = part.table if isinstance(part, sa.ColumnClause) else part
    while isinstance(table, sa.Alias):
        table = table.element
    return table


def refuse_parts(whole: Element, tables: Tables) -> None:
    """Raise `InvalidRequestError` for a join of classes, a nested write, OR in text."""
    for part in visitors.iterate(whole):
        is_text = isinstance(part, sa.TextClause) or vars(part).get("is_literal")
        bad = OR.search(str(part)) if is_text else isinstance(part, sa.UpdateBase)
        refused = bool(bad) and part is not whole
        # A mapper's own join, of inheritance, is annotated itself or has bare sides.
        if isinstance(part, MADE) and not isinstance(part, Annotated):
            sides = _sides(getattr(part, "element", part))
            refused = any(isinstance(side, Annotated) for side in sides)
        reads = visitors.iterate(whole if is_text else part)
        if any(how["full"] for *_, how in vars(part).get("_setup_joins", ())):
            refused, reads = True, filter(lambda it: isinstance(it, Annotated), reads)
        if refused and any(table_of(each) in tables for each in reads):
            raise InvalidRequestError(REFUSED)


@dataclass
class _Narrowing:
    """Puts the remaining rows in a table's place, or adds a WHERE where it stays."""

    whole: Element
    tables: Tables
    condition: Condition
    remaining: dict[Any, sa.Subquery] = field(default_factory=dict)
    kept: frozenset[int] = frozenset()

    def narrow(self) -> Element:
        parts = [*visitors.iterate(self.whole)]
        options = chain(*(vars(part).get("_with_options", ()) for part in parts))
        rows = (part for part in parts if isinstance(part, sa.FromClause | sa.Column))
        classes = [part for part in rows if isinstance(part, Annotated)]
        if not self.whole.is_insert:
            stay = (getattr(each, "table", each) for each in [*classes, self.whole])
            self.kept = frozenset(map(hash, stay))
        joins = [p for p in parts if classes and isinstance(p, sa.Join)]  # a mapper's
        opts = {"stop_on": [*classes, *options, *joins]}
        visit: Element = {"select": self._add, "on_conflict_do_update": self._merge}
        copy: Any = visitors.cloned_traverse(self.whole, opts, visit)
        replace = self._nested if self.whole.is_insert else self._replace
        copy = visitors.replacement_traverse(copy, opts, replace)
        if "_values" in (inside := copy.__dict__):  # as a dict, which takes no more
            inside["_values"] = immutabledict(inside["_values"])
        return copy

    def _add(self, select: sa.Select[Any]) -> None:
        for table in chain(*map(_sides, select.get_final_froms())):
            stays = hash(table) in self.kept and not isinstance(table, Annotated)
            if stays and table_of(table) in self.tables:
                vars(select)["_where_criteria"] += (self.condition(table.c),)

    def _merge(self, upsert: sa.ClauseElement) -> None:
        if self.whole.is_insert and self.whole.table in self.tables:
            where = vars(upsert)["update_whereclause"]
            rest = self.condition(self.whole.table.c)
            vars(upsert)["update_whereclause"] = rest if where is None else where & rest

    def _nested(self, element: Element, **_: object) -> Element:
        if isinstance(element, sa.SelectBase):
            return narrow_tables(element, self.tables, self.condition)
        return element if isinstance(element, sa.Table | sa.Column) else None

    def _replace(self, element: Element, **_: object) -> Element:
        table: Element = element.table if isinstance(element, sa.Column) else element
        table = getattr(table, "__dict__", {}).get("_is_clone_of", table)  # as columns
        if (base := table_of(table)) not in self.tables or hash(table) in self.kept:
            return None
        if (rest := self.remaining.get(table)) is None:
            rows = sa.select(base).where(self.condition(base.c))
            rest = self.remaining[table] = rows.subquery(table.name)
        return rest.c[element.key] if isinstance(element, sa.Column) else rest


def _in_rows(statement: Element, given: object) -> Iterator[object]:
    """Yield the tables of all queries that stand among rows of values."""
    rows = [*chain(*vars(statement).get("_multi_values", ()))]
    rows += given if isinstance(given, list | tuple) else [given or ()]
    values = chain(*(row.values() if isinstance(row, Mapping) else row for row in rows))
    parts = (value for value in values if isinstance(value, sa.ClauseElement))
    yield from chain(*map(visitors.iterate, parts))
