"""Runs two coroutines so that one is interrupted at an await that the test chooses."""

from __future__ import annotations

import asyncio
import types
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")


@types.coroutine
def stepping(
    coroutine: Coroutine[Any, Any, T], turn: Callable[[], Awaitable[object]]
) -> Generator[Any, Any, T]:
    """Await a coroutine, and `turn` before each step from one suspension to the next.

    It is not for a task that is cancelled.
    """
    inner = coroutine.__await__()
    while True:
        yield from turn().__await__()
        try:
            waited = next(inner)
        except StopIteration as stop:
            result: T = stop.value
            return result
        yield waited


async def count_steps(coroutine: Coroutine[Any, Any, object]) -> int:
    """Return how many steps a coroutine takes."""
    steps = 0

    async def turn() -> None:
        nonlocal steps
        steps += 1

    await stepping(coroutine, turn)
    return steps


async def interrupted(
    first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, T], *, after: int
) -> tuple[T, T]:
    """Run `after` steps of the first, then all of the second, then the rest."""
    taken, parked, over = 0, asyncio.Event(), asyncio.Event()

    async def turn_of_first() -> None:
        nonlocal taken
        if taken == after:
            parked.set()
            await over.wait()
        taken += 1

    async def run_first() -> T:
        try:
            return await stepping(first, turn_of_first)
        finally:
            parked.set()

    async def run_second() -> T:
        await parked.wait()
        try:
            return await second
        finally:
            over.set()

    one, other = await asyncio.gather(run_first(), run_second())
    return one, other


async def alternating(
    first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, T]
) -> tuple[T, T]:
    """Run a step of each in turn, until one of them is over."""
    turns = [asyncio.Event(), asyncio.Event()]
    turns[0].set()
    over = False

    def turn_of(me: int) -> Callable[[], Awaitable[None]]:
        begun = False

        async def turn() -> None:
            nonlocal begun
            if begun:
                turns[1 - me].set()
            begun = True
            if not over:
                await turns[me].wait()
                turns[me].clear()

        return turn

    async def run(me: int, coroutine: Coroutine[Any, Any, T]) -> T:
        nonlocal over
        try:
            return await stepping(coroutine, turn_of(me))
        finally:
            over = True
            turns[1 - me].set()

    one, other = await asyncio.gather(run(0, first), run(1, second))
    return one, other
