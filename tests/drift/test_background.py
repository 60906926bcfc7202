"""A task that should have ended fails the test that began it, and is named."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import background
from tests.support.background import nothing_left_running


async def test_a_task_that_runs_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE_SECONDS", 0)
    with pytest.raises(TimeoutError, match="left-running"):
        async with nothing_left_running():
            task = asyncio.create_task(asyncio.Event().wait(), name="left-running")
    task.cancel()


async def test_a_task_may_end_after_the_block_and_begin_another_that_ends() -> None:
    ended: list[str] = []

    async def close(name: str, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        ended.append(name)

    async def close_both() -> None:
        await close("first", 1)
        tasks.append(asyncio.create_task(close("second", 9)))

    tasks: list[asyncio.Task[None]] = []
    async with nothing_left_running():
        tasks.append(asyncio.create_task(close_both()))
        assert ended == []
    assert ended == ["first", "second"]


async def test_what_ran_before_may_run_on_or_end() -> None:
    may_end = asyncio.Event()
    tasks = [asyncio.create_task(one.wait()) for one in (may_end, asyncio.Event())]
    async with nothing_left_running():
        may_end.set()
        await tasks[0]
    assert not tasks[1].done()
    tasks[1].cancel()
