"""Read and write the rows of one model by key, filter and page.

Each call sends one statement (a page with its total, two) in the caller's transaction,
which it never commits and which survives a violated constraint. Writes bypass the unit
of work: defaults and constraints apply; validators, mapper events and cascades do not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from snippets.database.conflict import write_or_conflict
from snippets.database.filters import Condition, FieldError, Filter, field, order, where

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, whether more follow, and how many match in all if that was asked."""

    items: Sequence[T]
    has_more: bool
    total: int | None


class BaseRepository(Generic[T]):
    """The rows of a model that has one table to itself.

    All filters must match. A key is a value, or a tuple in the primary key's order.
    Rows whose `deleted_at` is set are hidden from all but `delete`, `include_deleted`.
    """

    max_limit: ClassVar[int] = 100
    protected: ClassVar[frozenset[str]] = frozenset(
        ("tenant_id", "created_at", "created_by", "deleted_at", "deleted_by")
    )
    """The fields that `update` refuses, besides those of the primary key."""

    def __init__(self, model: type[T], session: AsyncSession) -> None:
        """Work on `model` in the transaction of `session`."""
        self.model = model
        self.session = session
        self._mapper = sa.inspect(model)
        if self._mapper.polymorphic_on is not None or len(self._mapper.tables) > 1:
            raise TypeError(f"{model.__name__} does not have one table to itself")

    async def get(self, key: object, *, include_deleted: bool = False) -> T | None:
        """Return the row; one that the session holds in full costs no statement."""
        row = await self.session.get(self.model, self._key(key))
        if row is None or include_deleted:
            return row
        if "deleted_at" in sa.inspect(row).unloaded:  # the session held it without
            return await self.get_by(self._is(key))
        return None if getattr(row, "deleted_at", None) else row

    async def get_by(self, *filters: Filter, include_deleted: bool = False) -> T | None:
        """Return the one row that matches; several raise `MultipleResultsFound`."""
        matching = self._where(*filters, include_deleted=include_deleted)
        query = sa.select(self.model).where(*matching).limit(2)
        return (await self.session.scalars(query)).one_or_none()

    async def list(
        self,
        *filters: Filter,
        order_by: str = "",
        limit: int | None = None,
        offset: int = 0,
        include_deleted: bool = False,
        with_total: bool = False,
    ) -> Page[T]:
        """Return a page of what matches, in order of `-created_at,email`, then of key.

        Raises `ValueError` unless limit is 1 to `max_limit`, the default, offset >= 0.
        """
        limit = self.max_limit if limit is None else limit
        if not 1 <= limit <= self.max_limit or offset < 0:
            raise ValueError(f"limit must be 1 to {self.max_limit}, offset 0 or more")
        matching = self._where(*filters, include_deleted=include_deleted)
        query = sa.select(self.model).where(*matching).limit(limit + 1).offset(offset)
        query = query.order_by(*order(self.model, order_by))
        rows = (await self.session.scalars(query)).all()
        total = None
        if with_total:
            total = await self.count(*filters, include_deleted=include_deleted)
        return Page(rows[:limit], has_more=len(rows) > limit, total=total)

    async def count(self, *filters: Filter, include_deleted: bool = False) -> int:
        """Return how many rows match."""
        matching = self._where(*filters, include_deleted=include_deleted)
        query = sa.select(sa.func.count()).select_from(self.model).where(*matching)
        return (await self.session.scalars(query)).one()

    async def exists(self, *filters: Filter, include_deleted: bool = False) -> bool:
        """Return whether any row matches."""
        matching = self._where(*filters, include_deleted=include_deleted)
        query = sa.select(sa.true()).select_from(self.model).where(*matching).limit(1)
        return await self.session.scalar(query) is not None

    async def create(self, /, **values: object) -> T:
        """Insert a row and return it, with what the database filled in."""
        return (await self._write(sa.insert(self.model), values))[0]

    async def update(self, key: object, /, **values: object) -> T | None:
        """Change a row and return it as it is now, or None if there is none."""
        for name in values:
            if field(self.model, name).primary_key or name in self.protected:
                raise FieldError(self.model, name, "may not be updated")
        return await self._update(key, values) if values else await self.get(key)

    async def soft_delete(self, key: object, *, deleted_by: object = None) -> bool:
        """Mark a row as deleted, by the database's clock; return whether one was."""
        by = {} if deleted_by is None else {"deleted_by": deleted_by}
        return await self._update(key, {"deleted_at": sa.func.now(), **by}) is not None

    async def delete(self, key: object) -> bool:
        """Remove a row for good, marked or not; return whether there was one."""
        delete = sa.delete(self.model).where(self._is(key)).returning(sa.true())
        return bool(await write_or_conflict(self.session, self.model, delete))

    async def _update(self, key: object, values: Mapping[str, object]) -> T | None:
        live = self._where(self._is(key), include_deleted=False)
        rows = await self._write(sa.update(self.model).where(*live), values)
        return rows[0] if rows else None

    async def _write(
        self, statement: sa.Insert | sa.Update, values: Mapping[str, object]
    ) -> Sequence[T]:
        for name in values:
            field(self.model, name)
        returning = statement.values(values).returning(self.model)
        return await write_or_conflict(self.session, self.model, returning)

    def _where(self, *filters: Filter, include_deleted: bool) -> Iterator[Condition]:
        yield from (where(self.model, each) for each in filters)
        if not include_deleted and "deleted_at" in self._mapper.columns:
            yield where(self.model, {"deleted_at": None})

    def _is(self, key: object) -> Condition:
        pairs = zip(self._mapper.primary_key, self._key(key), strict=True)
        return sa.and_(*(part == value for part, value in pairs))

    def _key(self, key: object) -> tuple[object, ...]:
        values = key if isinstance(key, tuple) else (key,)
        if len(values) != len(self._mapper.primary_key):
            raise ValueError(f"{self.model.__name__} has a key of another length")
        return values
