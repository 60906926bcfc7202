"""Which distributions this environment's packages come from."""

from __future__ import annotations

from functools import cache
from importlib.metadata import packages_distributions
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def providers() -> Mapping[str, list[str]]:
    """Return the distributions that install each package, read once a process."""
    return packages_distributions()
