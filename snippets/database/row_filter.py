"""Add one condition on rows to whatever a session sends, however it was written.

Mapped classes and their aliases, relationships with every loading strategy, refreshes,
bulk updates by key and statements on bare tables are all narrowed. Not narrowed are
`text()`, a bare table or an `orm.join()` inside a statement on mapped classes, a
`secondary` table, and what is sent through `session.connection()`.

Source: https://docs.sqlalchemy.org/en/21/orm/session_events.html#do-orm-execute-global-criteria
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.sql import visitors
from sqlalchemy.sql.annotation import Annotated
from sqlalchemy.util import immutabledict

Condition: TypeAlias = sa.ColumnElement[bool]
OnTables: TypeAlias = sa.Select[Any] | sa.CompoundSelect[Any] | sa.UpdateBase
ON_TABLES = (sa.Select, sa.CompoundSelect, sa.UpdateBase)
"""What can be written on bare tables."""


class RowFilter:
    """The rows that meet a condition, in all models that share a mixin."""

    def __init__(self, mixin: type, condition: Callable[[Any], Condition]) -> None:
        """Take a condition that reads columns of a model or of its table's `c` alike.

        It is carried by the instances that were loaded with it: let it be a module's
        function, or they cannot be pickled.
        """
        self.mixin = mixin
        self.condition = condition
        self._on_classes = orm.with_loader_criteria(
            mixin, condition, include_aliases=True
        )

    def apply(self, state: orm.ORMExecuteState) -> None:
        """Narrow the statement that a listener of `do_orm_execute` was given.

        A bulk update by key leaves the instances in the session as they are.
        """
        statement = state.statement
        if isinstance(statement, sa.Insert) and statement.select is None:
            return
        if isinstance(statement, ON_TABLES) and _is_on_tables(state, statement):
            state.statement = self._on_tables(statement)
            return
        by_key = state.is_update and isinstance(state.parameters, list)
        mapper = state.bind_mapper if by_key or state.is_column_load else None
        if mapper is not None and issubclass(mapper.class_, self.mixin):
            # A statement that names its rows by key does not heed the option.
            if isinstance(statement, sa.Select | sa.Update):
                statement = statement.where(self.condition(mapper.class_))
            if by_key:
                state.update_execution_options(synchronize_session=False)
        state.statement = statement.options(self._on_classes)

    def _on_tables(self, statement: OnTables) -> OnTables:
        """Put a subquery of the remaining rows in the place of each table."""
        tables = models_of(self.mixin)
        target = statement.table if isinstance(statement, sa.UpdateBase) else None
        source = statement.select if isinstance(statement, sa.Insert) else None
        if isinstance(statement, sa.Update | sa.Delete) and target in tables:
            statement = statement.where(self.condition(statement.table.c))
        narrowed = {
            table: sa.select(table).where(self.condition(table.c)).subquery(table.name)
            for table in tables
            if table is not target
        }

        def replace(element: object, **_: object) -> object:
            if element is source and isinstance(source, ON_TABLES):
                return self._on_tables(source)
            if isinstance(element, sa.Column) and element.table in narrowed:
                return narrowed[element.table].c[element.key]
            return narrowed.get(element) if isinstance(element, sa.Table) else None

        result = visitors.replacement_traverse(statement, {}, replace)
        return cast("OnTables", result)


def hiding(
    base: type[orm.Session], is_hidden: Callable[[object, Mapping[str, Any]], bool]
) -> type[orm.Session]:
    """Return a session class whose identity map does not give out hidden instances.

    `is_hidden` takes an instance and the execution options it is asked for with.
    """
    name = "_identity_lookup"  # which SQLAlchemy's sharding extension overrides too
    lookup = getattr(base, name)

    def visible(
        session: orm.Session,
        *key: object,
        execution_options: Mapping[str, Any] = immutabledict(),
        **how: object,
    ) -> object:
        row = lookup(session, *key, execution_options=execution_options, **how)
        options = {**session.execution_options, **execution_options}
        return None if is_hidden(row, options) else row

    return type(base.__name__, (base,), {name: visible})


def models_of(mixin: type) -> dict[sa.Table, type]:
    """Return the tables of the models that share a mixin, and the model of each."""
    found: dict[sa.Table, type] = {}
    subclasses: list[type] = mixin.__subclasses__()
    for model in subclasses:
        mapper: object = sa.inspect(model, raiseerr=False)
        if isinstance(mapper, orm.Mapper) and isinstance(mapper.local_table, sa.Table):
            found.setdefault(mapper.local_table, model)
        found = models_of(model) | found
    return found


def _is_on_tables(state: orm.ORMExecuteState, statement: OnTables) -> bool:
    if state.is_orm_statement:
        return False
    return not any(isinstance(part, Annotated) for part in visitors.iterate(statement))
