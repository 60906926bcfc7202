"""Those who ask together share one execution, whatever becomes of its leader."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from catalogue.plugin import Proof
from snippets.caching.single_flight import SingleFlight
from snippets.caching.single_flight_naive import SharedTasks


class DatabaseDownError(Exception):
    """What a load raises."""


@dataclass
class Load:
    """Work that waits to be told how to end, and remembers who ran it."""

    outcomes: list[str | Exception] = field(default_factory=lambda: ["busy"])
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    runs: int = 0
    running: int = 0
    most_running: int = 0

    async def __call__(self) -> str:
        """Wait; then return or raise the next outcome, the last one for ever."""
        self.runs += 1
        self.begun.put_nowait(self.runs)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        outcome = self.outcomes[min(self.runs, len(self.outcomes)) - 1]
        try:
            await self.may_end.wait()
        finally:
            self.running -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def flights() -> SingleFlight[str]:
    """Nobody flies yet."""
    return SingleFlight()


async def start(
    flights: SingleFlight[str], load: Callable[[], Awaitable[str]], callers: int
) -> list[asyncio.Task[tuple[str, bool]]]:
    """Let so many callers ask, and return when all have asked."""
    tasks = [
        asyncio.create_task(flights.run("extension:1001", load)) for _ in range(callers)
    ]
    await asyncio.sleep(0)
    return tasks


async def test_200_callers_share_one_execution(
    flights: SingleFlight[str], proof: Proof
) -> None:
    load = Load()
    callers = await start(flights, load, 200)

    load.may_end.set()
    results = await asyncio.gather(*callers)

    assert load.runs == 1
    assert {result for result, _ in results} == {"busy"}
    assert [led for _, led in results] == [True] + [False] * 199
    proof.cost("200 callers at once", executions=1)


async def test_other_keys_do_not_wait(flights: SingleFlight[str]) -> None:
    load = Load()
    await_first = await start(flights, load, 1)

    async def free() -> str:
        return "free"

    assert await flights.run("extension:1002", free) == ("free", True)
    load.may_end.set()
    await asyncio.gather(*await_first)


async def test_the_next_caller_leads_anew(flights: SingleFlight[str]) -> None:
    load = Load(outcomes=["busy", "free"])
    load.may_end.set()

    assert await flights.run("extension:1001", load) == ("busy", True)
    assert await flights.run("extension:1001", load) == ("free", True)


async def test_cancelling_a_waiter_cancels_nobody_else(
    flights: SingleFlight[str],
) -> None:
    load = Load()
    callers = await start(flights, load, 4)

    callers[1].cancel()
    callers[3].cancel()
    await asyncio.wait([callers[1], callers[3]])
    load.may_end.set()

    assert await callers[0] == ("busy", True)
    assert await callers[2] == ("busy", False)
    assert callers[1].cancelled()
    assert callers[3].cancelled()
    assert load.runs == 1


@pytest.mark.parametrize("successor", ["waits", "runs through"])
async def test_when_the_leader_is_cancelled_exactly_one_waiter_takes_over(
    flights: SingleFlight[str], successor: str
) -> None:
    load = Load()
    callers = await start(flights, load, 200)

    callers[0].cancel()
    if successor == "waits":
        assert [await load.begun.get(), await load.begun.get()] == [1, 2]
    load.may_end.set()
    results = await asyncio.gather(*callers[1:])

    assert callers[0].cancelled()
    assert load.runs == 2
    assert load.most_running == 1
    assert sum(led for _, led in results) == 1


async def test_a_successor_cancelled_before_it_begins_hands_on(
    flights: SingleFlight[str],
) -> None:
    load = Load()
    callers = await start(flights, load, 4)

    callers[0].cancel()
    await asyncio.sleep(0)  # the second has been told to lead, but has not begun
    assert load.runs == 1
    callers[1].cancel()
    load.may_end.set()
    results = await asyncio.gather(*callers[2:])

    assert callers[1].cancelled()
    assert results == [("busy", True), ("busy", False)]
    assert load.runs == 2


async def test_a_waiter_that_has_left_is_not_made_to_lead(
    flights: SingleFlight[str],
) -> None:
    load = Load()
    callers = await start(flights, load, 4)
    callers[1].cancel()
    await asyncio.wait(callers[1:2])

    callers[0].cancel()
    load.may_end.set()

    assert await asyncio.gather(*callers[2:]) == [("busy", True), ("busy", False)]


async def test_an_error_that_nobody_is_left_to_see_is_not_reported(
    flights: SingleFlight[str],
) -> None:
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    load = Load(outcomes=[DatabaseDownError(), DatabaseDownError()])
    callers = await start(flights, load, 3)
    load.may_end.set()
    load.may_end.clear()  # lets the first go on, and no other
    assert [await load.begun.get(), await load.begun.get()] == [1, 2]

    load.may_end.set()
    await asyncio.sleep(0)  # the second has failed; the third is told, but not awake
    callers[2].cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert callers[2].cancelled()
    del callers
    gc.collect()

    assert not reported


async def test_when_all_are_cancelled_the_next_caller_leads(
    flights: SingleFlight[str],
) -> None:
    load = Load()
    callers = await start(flights, load, 3)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    load.may_end.set()

    assert await flights.run("extension:1001", load) == ("busy", True)


async def test_when_the_leader_fails_exactly_one_waiter_tries_again(
    flights: SingleFlight[str],
) -> None:
    load = Load(outcomes=[DatabaseDownError("first"), "busy"])
    callers = await start(flights, load, 200)

    load.may_end.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [str(result) for result in results[:1]] == ["first"]
    assert results[1:] == [("busy", True)] + [("busy", False)] * 198
    assert load.runs == 2
    assert load.most_running == 1


async def test_a_second_failure_is_given_to_all_who_wait(
    flights: SingleFlight[str], proof: Proof
) -> None:
    load = Load(outcomes=[DatabaseDownError("first"), DatabaseDownError("second")])
    callers = await start(flights, load, 200)

    load.may_end.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [str(result) for result in results] == ["first"] + ["second"] * 199
    assert load.runs == 2
    proof.cost("200 callers at once, while the load fails", executions=2)


async def test_a_cancelled_successor_does_not_hide_the_first_failure(
    flights: SingleFlight[str],
) -> None:
    load = Load(outcomes=[DatabaseDownError("first"), "", DatabaseDownError("third")])
    callers = await start(flights, load, 5)
    load.may_end.set()
    load.may_end.clear()  # lets the first go on, and no other
    await asyncio.wait(callers[:1])
    assert [await load.begun.get(), await load.begun.get()] == [1, 2]

    callers[1].cancel()
    await asyncio.wait(callers[1:2])
    load.may_end.set()
    results = await asyncio.gather(*callers[2:], return_exceptions=True)

    assert [str(result) for result in results] == ["third"] * 3
    assert load.runs == 3


async def test_after_failures_the_next_caller_leads(flights: SingleFlight[str]) -> None:
    load = Load(outcomes=[DatabaseDownError(), DatabaseDownError(), "busy"])
    load.may_end.set()
    callers = await start(flights, load, 2)
    await asyncio.wait(callers)
    assert all(caller.exception() for caller in callers)

    assert await flights.run("extension:1001", load) == ("busy", True)


async def test_whoever_asks_after_forget_is_not_given_the_older_result(
    flights: SingleFlight[str],
) -> None:
    old, new = Load(outcomes=["old"]), Load(outcomes=["new"])
    before = await start(flights, old, 3)
    flights.forget("extension:1001")
    after = await start(flights, new, 3)

    old.may_end.set()
    assert {result for result, _ in await asyncio.gather(*before)} == {"old"}
    later = await start(flights, new, 2)  # the end of the old one is not theirs
    new.may_end.set()

    results = await asyncio.gather(*after, *later)
    assert {result for result, _ in results} == {"new"}
    assert new.runs == 1


def test_event_loops_do_not_wait_for_one_another(flights: SingleFlight[str]) -> None:
    both_are_in = threading.Barrier(2)
    results = []

    async def load() -> str:
        both_are_in.wait(timeout=30)  # holds its whole thread until the other runs too
        return "busy"

    def in_a_thread() -> None:
        results.append(asyncio.run(flights.run("extension:1001", load)))

    threads = [threading.Thread(target=in_a_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [("busy", True)] * 2


class Key:
    """A key whose life can be watched."""


async def fail() -> str:
    """Fail without a pause."""
    raise DatabaseDownError


@pytest.mark.parametrize("end", ["result", "failure", "cancelled"])
async def test_nothing_is_kept_of_a_key_afterwards(
    flights: SingleFlight[str], end: str
) -> None:
    async def use_a_key() -> weakref.ref[Key]:
        key, load = Key(), Load()
        work = fail if end == "failure" else load
        callers = [asyncio.create_task(flights.run(key, work)) for _ in range(3)]
        await asyncio.sleep(0)
        for caller in callers:
            if end == "cancelled":
                caller.cancel()
        load.may_end.set()
        await asyncio.gather(*callers, return_exceptions=True)
        return weakref.ref(key)

    watched = await use_a_key()
    await asyncio.sleep(0)  # for the loop to let go of the tasks
    gc.collect()

    assert watched() is None


async def test_naive_shared_tasks_are_cancelled_with_any_waiter(proof: Proof) -> None:
    tasks: SharedTasks[str] = SharedTasks()
    load = Load()

    def work() -> Coroutine[Any, Any, str]:
        return load()

    callers = [asyncio.create_task(tasks.run("extension:1001", work)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    callers[2].cancel()
    await asyncio.wait(callers)

    assert [caller.cancelled() for caller in callers] == [True] * 3
    proof.breaks(
        "One of three waiting requests is cancelled", "all three are cancelled"
    )
