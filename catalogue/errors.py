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
    def of(
        cls, error: CatalogueError | OSError, root: Path, path: str = ""
    ) -> CatalogueError:
        """Return what to say of a file that cannot be read or written.

        It is `path` where the error names none, as that of a full disk.
        """
        if isinstance(error, CatalogueError):
            return error
        name = os.path.relpath(os.fsdecode(error.filename or root / path), root)
        what = f"cannot be used ({error.strerror})"
        return cls(f"{name}:1: {what}; restore it, or its permissions")
