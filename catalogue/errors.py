"""The one error the catalogue shows to a person."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class CatalogueError(Exception):
    """Something in the tree is wrong.

    The message is one line, `path:line: what is wrong and how to mend it`.
    """

    @classmethod
    def of(cls, error: OSError, root: Path) -> CatalogueError:
        """Return what to say of a file that cannot be read or written."""
        path = os.path.relpath(os.fsdecode(error.filename or root), root)
        what = f"cannot be used ({error.strerror})"
        return cls(f"{path}:1: {what}; restore it, or its permissions")
