"""Filter by what a client asks for, as it is written first."""

from collections.abc import Mapping
from typing import TypeVar

from sqlalchemy import Select, select

T = TypeVar("T")


def matching(model: type[T], filters: Mapping[str, object]) -> Select[T]:
    """Return the query for the rows in which each field has its value."""
    query = select(model)
    for key, value in filters.items():
        query = query.where(getattr(model, key) == value)
    return query


def searching(model: type[T], key: str, text: str) -> Select[T]:
    """Return the query for the rows in which a field contains the text."""
    return select(model).where(getattr(model, key).like(f"%{text}%"))
