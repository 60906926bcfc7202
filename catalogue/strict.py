"""Data that is held to its form: a field too many is refused, and none is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pydantic import ValidationError


class Strict(BaseModel):
    """The base of everything that is read from a file or written to one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def first_fault(error: ValidationError) -> tuple[tuple[int | str, ...], str, str]:
    """Return where the first fault of some data is, that place in words, and what."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return first["loc"], where, first["msg"].removeprefix("Value error, ")
