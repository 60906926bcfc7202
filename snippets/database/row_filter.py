"""Add one condition on rows to whatever a session sends, however it was written.

Mapped classes and their aliases, relationships with every loading strategy, refreshes,
bulk updates by key, statements on bare tables, functions that are executed, and what a
write reads or merges into are narrowed. Refused are full joins, `sa.join()`,
`orm.join()` and `sa.alias()` of classes, a SELECT among rows of values or of tables
beside a write, one within a statement, text with an OR, and a double: `sa.table()`. Not
narrowed are queries in text, a bare table in a query of classes or in a bundle, that of
a `secondary`, a view or joined inheritance, an expression that a flush sends or
`with_expression` gives, a class without the mixin, the session's bulk methods such as
`bulk_update_mappings`, and `connection()`. A parameter named as the condition's wins.

Source: https://docs.sqlalchemy.org/en/21/orm/session_events.html#do-orm-execute-global-criteria
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Self, TypeAlias

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm.mapper import _all_registries
from sqlalchemy.sql import visitors
from sqlalchemy.sql.annotation import Annotated

from snippets.database.narrow_tables import narrow_tables, refuse_parts, table_of

Condition: TypeAlias = sa.ColumnElement[bool]
Element: TypeAlias = Any


class RowFilter:
    """The rows that meet a condition, in all models that share a mixin."""

    def __init__(self, mixin: type, condition: Callable[[Any], Condition]) -> None:
        """Take a condition that reads columns of a model or of its table's `c` alike.

        Let it be a module's function: instances that are pickled carry it along.
        """
        self.mixin = mixin
        self.condition = condition
        self._on_classes = _OnClasses(mixin, condition, include_aliases=True)

    def apply(self, state: orm.ORMExecuteState) -> None:
        """Narrow the statement that a listener of `do_orm_execute` was given.

        A bulk update by key leaves the instances in the session as they are. Raises
        `InvalidRequestError` for what is refused.
        """
        statement: Any = state.statement
        if isinstance(statement, sa.FunctionElement):
            statement = statement.select()
        # The option is enough for a query of classes, but for one that a write needs.
        query = state.is_orm_statement and isinstance(statement, sa.Select)
        if not query or vars(statement).get("_for_update_arg") is not None:
            whole = statement.element if state.is_from_statement else statement
            of = models_of(self.mixin)
            _refuse_doubles(whole, of)
            tables = {t for t in of if orm.class_mapper(of[t]).persist_selectable is t}
            narrow = narrow_tables(whole, tables, self.condition, state.parameters)
            if state.is_insert and narrow is whole:
                return
            statement = _swap(statement, whole, narrow)
        by_key = state.is_update and isinstance(state.parameters, list)
        mapper = state.bind_mapper if by_key or state.is_column_load else None
        if mapper is not None and issubclass(mapper.class_, self.mixin):
            # A statement that names its rows by key does not heed the option.
            if isinstance(statement, sa.Select | sa.Update):
                statement = statement.where(self.condition(mapper.class_))
            if by_key:
                state.update_execution_options(synchronize_session=False)
        state.statement = statement.options(self._on_classes)


class _OnClasses(orm.LoaderCriteriaOption):
    """The option, which also refuses: when a query is compiled, not each time."""

    inherit_cache = True
    _cache_key_traversal = None

    def _clone(self, **_: object) -> Self:
        return self  # with its slots, which a clone would lack

    def _copy_internals(self, **_: object) -> None:
        """Do nothing."""

    def process_compile_state(self, compile_state: Element) -> None:
        """Take effect."""
        query = getattr(compile_state, "select_statement", None)
        if query is not None and self.root_entity is not None:
            tables = models_of(self.root_entity)
            refuse_parts(getattr(query, "element", query), tables)
            _refuse_doubles(query, tables)
        super().process_compile_state(compile_state)


def hiding(
    base: type[orm.Session], is_hidden: Callable[[object, Mapping[str, Any]], bool]
) -> type[orm.Session]:
    """Return a session class whose identity map does not give out hidden instances.

    `is_hidden` takes an instance and the execution options it is asked for with.
    """
    name = "_identity_lookup"  # which SQLAlchemy's sharding extension overrides too
    lookup = getattr(base, name)

    def visible(session: orm.Session, *key: object, **how: Element) -> object:
        row = lookup(session, *key, **how)
        options = {**session.execution_options, **how.get("execution_options", {})}
        return None if is_hidden(row, options) else row

    return type(base.__name__, (base,), {name: visible})


def models_of(mixin: type) -> dict[sa.Table, type]:
    """Return the tables of the models that share a mixin, and the model of each.

    Keep the models, in a module say: neither their registry nor their tables do.
    """
    found: dict[sa.Table, type] = {}
    for model in list[type](mixin.__subclasses__()):
        mapper: object = sa.inspect(model, raiseerr=False)
        if isinstance(mapper, orm.Mapper) and isinstance(mapper.local_table, sa.Table):
            found.setdefault(mapper.local_table, model)
        found = models_of(model) | found
    return found


def shares_name(part: object, tables: Collection[sa.Table]) -> bool:
    """Whether a part is of one of these tables, or a double: their name, no model."""
    table = table_of(part)
    if not isinstance(table, sa.TableClause) or table in tables:
        return isinstance(table, sa.TableClause)
    how = "fullname" if isinstance(table, sa.Table) else "name"
    taken = {getattr(each, how).casefold() for each in tables}
    same = getattr(table, how).casefold() in taken and not isinstance(part, Annotated)
    mappers = (each for registry in _all_registries() for each in registry.mappers)
    return same and not any(each.local_table is table for each in mappers)


def _refuse_doubles(statement: Element, tables: Collection[sa.Table]) -> None:
    for part in visitors.iterate(statement):
        if shares_name(part, tables) and table_of(part) not in tables:
            raise sa.exc.InvalidRequestError("not narrowed: name the model's table")


def _swap(statement: Element, old: Element, new: Element) -> Element:
    """Put a statement in the place of another, which may be in a `from_statement`."""
    places: dict[object, Element] = {statement: None, old: new}
    traverse: Element = visitors.replacement_traverse
    return traverse(statement, {}, lambda part, **_: places.get(part, part))
