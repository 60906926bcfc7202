"""Send an UPDATE wherever a session would delete rows of the models that share a mixin.

It covers `session.delete` and DELETE of a mapped class or of its table, and follows the
relationships whose cascade includes "delete". Their parents are locked first, where the
database can do that, so that none gets another child; the youngest change first, so
that no constraint sees a live child of a deleted parent. An orphan that the unit of
work would delete is refused, and the flush with it. Not covered is a DELETE in a CTE.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm.interfaces import ONETOMANY
from sqlalchemy.schema import sort_tables

from snippets.database.row_filter import Condition, models_of

Conditions: TypeAlias = Sequence[Condition]
Parameters: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, eq=False)
class DeleteAsUpdate:
    """What becomes of a DELETE of the models that share a mixin.

    It sets `values`, which are asked for once per deletion, in those rows that are
    live. With the execution option `physical` it removes those that are not live.
    """

    mixin: type
    is_live: Callable[[Any], Condition]
    values: Callable[[], Mapping[str, object]]

    def listen(self, session_class: type[orm.Session]) -> None:
        """Take effect in the sessions of a class."""
        event.listen(session_class, "do_orm_execute", self._execute)
        event.listen(session_class, "before_flush", self._flush)
        event.listen(session_class, "persistent_to_deleted", self._refuse)

    def _execute(self, state: orm.ORMExecuteState) -> sa.Result[Any] | None:
        statement, session = state.statement, state.session
        if not isinstance(statement, sa.Delete) or "purging" in session.info:
            return None
        options = {k: v for k, v in state.execution_options.items() if k[0] != "_"}
        return self.delete(session, statement, state.parameters, options)

    def delete(
        self,
        session: orm.Session,
        statement: sa.Delete,
        parameters: Parameters,
        options: Mapping[str, Any],
    ) -> sa.Result[Any] | None:
        """Do what becomes of a DELETE; return None if it is of another model."""
        model = statement.entity_description.get("entity")
        if model is None and isinstance(statement.table, sa.Table):
            model = models_of(self.mixin).get(statement.table)
        if model is None or not issubclass(model, self.mixin):
            return None
        if isinstance(parameters, Sequence):
            raise InvalidRequestError("a DELETE takes one set of parameters at a time")
        known = (*session.identity_map.values(), *session.new)
        if not any(isinstance(row, self.mixin) for row in known):
            options = {"synchronize_session": False, **options}  # takes half the time
        run = partial(session.execute, execution_options=options)
        physical = options.get("physical", False)
        values = {} if physical else options.get("deletion") or self.values()

        def is_in(model: type) -> Condition:
            return sa.not_(self.is_live(model)) if physical else self.is_live(model)

        given = statement.whereclause
        where: Conditions = [is_in(model), *([] if given is None else [given])]
        if any(each.cascade.delete for each in orm.class_mapper(model).relationships):
            key = _attributes(model, orm.class_mapper(model).primary_key)
            query = sa.select(*key).where(*where).with_for_update(of=model)
            found = [tuple(row) for row in run(query, parameters)]
            where, parameters = [sa.tuple_(*key).in_(found)], None
        steps: list[Any] = []
        for each, its in family(self.mixin, model, where, is_in):
            step = sa.delete(each) if physical else sa.update(each).values(values)
            steps.append(step.where(*its))
        # `returning_column_descriptions` fails for an expression such as `true()`.
        if returned := vars(statement).get("_returning"):
            steps[-1] = steps[-1].returning(*returned)
        if physical:
            session.flush()  # lest an orphan goes with them
            session.info["purging"] = True
        try:
            return [run(step, parameters) for step in steps][-1]
        finally:
            session.info.pop("purging", None)

    def _flush(self, session: orm.Session, *_: object) -> None:
        doomed = [row for row in session.deleted if isinstance(row, self.mixin)]
        if not doomed:
            return
        session.add_all(doomed)  # takes back `session.delete`
        deletion = {"deletion": self.values()}
        tables = sort_tables(models_of(self.mixin))
        doomed.sort(key=lambda row: -tables.index(sa.inspect(row).mapper.tables[0]))
        for row in doomed:
            where = has_key(type(row), sa.inspect(row).identity)
            self.delete(session, sa.delete(type(row)).where(*where), None, deletion)

    def _refuse(self, session: orm.Session, row: object) -> None:
        if isinstance(row, self.mixin) and "purging" not in session.info:
            name = type(row).__name__
            raise InvalidRequestError(f"{name} is an orphan: delete it, or keep it")


def family(
    mixin: type, model: type, where: Conditions, is_in: Callable[[Any], Condition]
) -> Iterator[tuple[type[Any], Conditions]]:
    """Yield each model that deletes cascade to, the remotest first, and last `model`.

    With each come the conditions for its rows: those given or, for children, that they
    belong to such a row and that `is_in` holds for them. A cascade which does not lead
    to children, in another model with the mixin, raises `TypeError`.
    """
    for relationship in orm.class_mapper(model).relationships:
        if relationship.cascade.delete:
            child = relationship.mapper.class_
            to_children = relationship.direction is ONETOMANY and child is not model
            if not to_children or not issubclass(child, mixin):
                raise TypeError(f"{relationship} cannot cascade a soft deletion")
            keys, links = zip(*relationship.local_remote_pairs, strict=True)
            parents = sa.select(*_attributes(model, keys)).where(*where)
            belongs = sa.tuple_(*_attributes(child, links)).in_(parents.correlate(None))
            yield from family(mixin, child, [belongs, is_in(child)], is_in)
    yield model, where


def has_key(model: type, key: object) -> Conditions:
    """Return the conditions for one row; a key is a value, or a tuple in order."""
    values = key if isinstance(key, tuple) else (key,)
    columns = _attributes(model, orm.class_mapper(model).primary_key)
    return [column == value for column, value in zip(columns, values, strict=True)]


def _attributes(
    model: type, columns: Sequence[sa.ColumnElement[Any]]
) -> list[orm.InstrumentedAttribute[Any]]:
    find = orm.class_mapper(model).get_property_by_column
    return [find(column).class_attribute for column in columns]
