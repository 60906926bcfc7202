"""Send an UPDATE wherever a session would delete rows of the models that share a mixin.

It covers `session.delete` and DELETE of a mapped class or of its table, and follows the
relationships whose cascade includes "delete". Their parents are locked first, where the
database can do that, so that none gets another child; the youngest change first, so
that no constraint sees a live child of a deleted parent. Refused are an orphan that the
unit of work would delete, an alias, and a table's double; not seen a DELETE in a CTE.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.exc import InvalidRequestError

from snippets.database.row_filter import Condition, models_of, shares_name

AT_ONCE = 10_000  # parts of keys in one statement, of which a driver takes 32,000

Conditions: TypeAlias = Sequence[Condition]
Options: TypeAlias = Mapping[str, Any]
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
        self, session: orm.Session, delete: sa.Delete, given: Parameters, how: Options
    ) -> sa.Result[Any] | None:
        """Do what becomes of a DELETE; return None if it is of another model."""
        own: dict[Any, type] = models_of(self.mixin)
        model = delete.entity_description.get("entity") or own.get(delete.table)
        if not isinstance(model, type) and shares_name(delete.table, own):
            raise InvalidRequestError("delete from a model or its table, not a double")
        if not isinstance(model, type) or not issubclass(model, self.mixin):
            return None
        if isinstance(given, Sequence):
            raise InvalidRequestError("a DELETE takes one set of parameters at a time")
        known = (*session.identity_map.values(), *session.new)
        if not any(isinstance(row, self.mixin) for row in known):
            how = {"synchronize_session": False, **how}  # takes half the time
        run = partial(session.execute, execution_options=how)
        physical = how.get("physical", False)
        values = {} if physical else how.get("deletion") or self.values()
        is_in = (lambda of: sa.not_(self.is_live(of))) if physical else self.is_live
        where: Conditions = [is_in(model), *vars(delete).get("_where_criteria", ())]
        batches = [where]
        if any(each.cascade.delete for each in orm.class_mapper(model).relationships):
            key = _attributes(model, orm.class_mapper(model).primary_key)
            query = sa.select(*key).where(*where).with_for_update(of=model)
            found, given = [tuple(row) for row in run(query, given)], None
            size = AT_ONCE // len(key)
            starts = range(0, len(found) or 1, size)
            batches = [[sa.tuple_(*key).in_(found[at : at + size])] for at in starts]
        # `returning_column_descriptions` fails for an expression such as `true()`.
        returned = vars(delete).get("_returning", ())
        steps: list[Any] = []
        for each, its in chain(*(family(self.mixin, model, b, is_in) for b in batches)):
            step: Any = sa.delete(each) if physical else sa.update(each).values(values)
            wanted = returned if each is model else ()
            steps.append(step.where(*its).returning(*wanted))
        if physical:
            session.flush()  # lest an orphan goes with them
            session.info["purging"] = True
        try:
            results = [run(step, given) for step in steps]
        finally:
            session.info.pop("purging", None)
        of_each = len(steps) // len(batches)
        first, *others = results[of_each - 1 :: of_each]
        return first.merge(*others) if others else first

    def _flush(self, session: orm.Session, *_: object) -> None:
        doomed = [row for row in session.deleted if isinstance(row, self.mixin)]
        if not doomed:
            return
        session.add_all(doomed)  # takes back `session.delete`
        deletion = {"deletion": self.values()}
        tables = sa.schema.sort_tables(models_of(self.mixin))
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
            to_children = relationship.direction is orm.ONETOMANY and child is not model
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


def _attributes(model: type, columns: Sequence[Any]) -> list[Any]:
    find = orm.class_mapper(model).get_property_by_column
    return [find(column).class_attribute for column in columns]
