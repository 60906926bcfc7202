"""Counts of what code does, where a clock would tell of the machine."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, ModuleType

    from _typeshed import TraceFunction


@dataclass
class Steps:
    """How many lines of a module ran while it was watched."""

    total: int = 0


@contextmanager
def count_lines(module: ModuleType) -> Iterator[Steps]:
    """Count each line of `module` that is run inside the block, as often as it is."""
    steps = Steps()

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if frame.f_code.co_filename != module.__file__:
            return None
        steps.total += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)
