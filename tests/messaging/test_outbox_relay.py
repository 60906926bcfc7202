"""What is in the outbox is published at least once, and in the order of its key."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Literal, Self

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.pool import QueuePool

from catalogue.plugin import Proof
from snippets.database.async_session import OwnedAsyncSession, session_scope
from snippets.messaging import outbox_relay_naive
from snippets.messaging.outbox import OutboxMessage, wake_after_commit
from snippets.messaging.outbox_relay import OutboxRelay
from snippets.messaging.rabbit_broker import (
    Outgoing,
    UnconfirmedError,
    UnroutableError,
)
from tests.support.counters import count_sql
from tests.support.outbox import (
    LEASE,
    NOW,
    Recorder,
    Service,
    kill,
    service,
    target_of,
)


@pytest.fixture
async def pbx(database_url: str) -> AsyncIterator[Service]:
    """Both services on an empty database."""
    async with service(database_url) as both:
        yield both


def away(_: Outgoing) -> Exception:
    """Fail as if the broker were not there."""
    return UnconfirmedError()


async def test_a_batch_is_one_claim_its_messages_and_one_mark(
    pbx: Service, proof: Proof
) -> None:
    numbers = [str(1001 + one) for one in range(5)]
    ids = [await pbx.forward(number, number) for number in numbers]
    recorder = Recorder()
    with count_sql(pbx.engine) as seen:
        assert await pbx.relay(recorder).relay_batch() == 5
    assert (seen.total, seen.commits) == (2, 2)
    assert sorted(recorder.targets) == numbers
    assert {one.message_id for one in recorder.sent} == {str(one) for one in ids}
    assert [one.published_at for one in await pbx.rows()] == [NOW] * 5
    proof.cost("batch of 5", claims=1, messages=5, marks=1)


async def test_what_is_published_says_what_the_row_says(pbx: Service) -> None:
    event_id = await pbx.forward()
    recorder = Recorder()
    await pbx.relay(recorder, "exchange").drain()
    (row,) = await pbx.rows()
    assert recorder.sent == [
        Outgoing(
            body=row.body,
            message_id=str(event_id),
            routing_key="extension.forwarded.acme",
            exchange="exchange",
            correlation_id="request-1",
            type="extension.forwarded",
            headers={"tenant": "acme"},
        )
    ]


async def test_a_relay_that_dies_after_publishing_has_its_message_come_again(
    pbx: Service,
) -> None:
    event_id = await pbx.forward()
    published = asyncio.Event()
    recorder = Recorder()

    async def publish_and_hang(message: Outgoing) -> None:
        await recorder(message)
        published.set()
        await asyncio.Event().wait()

    relay = pbx.relay(publish_and_hang)
    dying = asyncio.create_task(relay.drain())
    await published.wait()
    kill(dying, relay)
    await asyncio.gather(dying, return_exceptions=True)

    other = pbx.relay(recorder)
    pbx.time = NOW + LEASE - 1
    assert await other.drain() == 0
    pbx.time = NOW + LEASE
    assert await other.drain() == 1
    assert [one.message_id for one in recorder.sent] == [str(event_id)] * 2


async def test_after_a_crash_at_the_fifth_of_five_only_what_is_unmarked_repeats(
    pbx: Service,
) -> None:
    numbers = [str(1001 + one) for one in range(5)]
    for number in numbers:
        await pbx.forward(number, number)
    recorder = Recorder()
    fifth = asyncio.Event()

    async def hang_at_the_fifth(message: Outgoing) -> None:
        await recorder(message)
        if len(recorder.sent) == 5:
            fifth.set()
            await asyncio.Event().wait()

    relay = pbx.relay(hang_at_the_fifth, batch=2)
    dying = asyncio.create_task(relay.drain())
    await fifth.wait()
    kill(dying, relay)
    await asyncio.gather(dying, return_exceptions=True)
    assert [bool(one.published_at) for one in await pbx.rows()] == [True] * 4 + [False]
    pbx.time += LEASE
    await pbx.relay(recorder).drain()
    assert recorder.targets == [*numbers, "1005"]


async def test_a_relay_that_is_stopped_marks_what_is_confirmed_and_gives_back_the_rest(
    pbx: Service,
) -> None:
    numbers = [str(1001 + one) for one in range(5)]
    for number in numbers:
        await pbx.forward(number, number)
    recorder, hanging = Recorder(), asyncio.Event()

    async def hang_at_the_fifth(message: Outgoing) -> None:
        if target_of(message) == "1005":
            hanging.set()
            await asyncio.Event().wait()
        if target_of(message) == "1001":
            raise UnconfirmedError

    recorder.during = hang_at_the_fifth
    stopping = asyncio.create_task(pbx.relay(recorder, attempts=1).run())
    async with asyncio.timeout(20):
        await hanging.wait()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
    rows = await pbx.rows()
    assert [bool(one.published_at) for one in rows] == [False, *[True] * 3, False]
    assert [(one.attempts, one.error) for one in (rows[0], rows[-1])] == [
        (1, "UnconfirmedError"),
        (0, "CancelledError"),
    ]
    assert [bool(one.parked_at) for one in rows] == [True, *[False] * 4]
    pbx.time += 1
    recorder.during = None
    assert await pbx.relay(recorder, attempts=1).drain() == 1
    assert recorder.targets == ["1002", "1003", "1004", "1005"]


async def test_a_relay_that_is_stopped_while_it_marks_ends_when_it_has_marked(
    pbx: Service,
) -> None:
    await pbx.forward()
    marking, go_on = asyncio.Event(), asyncio.Event()

    class SlowSession(OwnedAsyncSession):
        async def __aenter__(self) -> Self:
            marking.set()
            await go_on.wait()
            return await super().__aenter__()

    async def publish(_: Outgoing) -> None:
        relay.sessions = async_sessionmaker(class_=SlowSession, **pbx.sessions.kw)

    relay = pbx.relay(publish)
    stopping = asyncio.create_task(relay.run())
    async with asyncio.timeout(20):
        await marking.wait()
        stopping.cancel()
        for _ in range(10):
            await asyncio.sleep(0)  # it goes as far as it can
        assert not stopping.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await stopping
    assert [one.published_at for one in await pbx.rows()] == [NOW]


async def test_what_is_cancelled_without_its_relay_has_failed_like_any_other(
    pbx: Service,
) -> None:
    await pbx.forward()

    async def cancelled(_: Outgoing) -> None:
        raise asyncio.CancelledError

    assert await pbx.relay(cancelled, attempts=1).drain() == 0
    (row,) = await pbx.rows()
    assert (row.attempts, row.error, row.parked_at) == (1, "CancelledError", NOW)


async def test_an_event_that_kills_each_relay_is_parked_after_its_attempts(
    pbx: Service,
) -> None:
    await pbx.forward("1001", "poison")
    await pbx.forward("1002", "good")
    recorder, claims = Recorder(), 0

    async def hang(message: Outgoing) -> None:
        if target_of(message) == "poison":
            begun.set()
            await asyncio.Event().wait()

    recorder.during = hang
    async with asyncio.timeout(20):
        while True:
            begun = asyncio.Event()
            relay = pbx.relay(recorder, attempts=3)
            dying = asyncio.create_task(relay.drain())
            waiting = asyncio.create_task(begun.wait())
            await asyncio.wait([dying, waiting], return_when="FIRST_COMPLETED")
            if dying.done():
                waiting.cancel()
                break
            claims += 1
            kill(dying, relay)
            await asyncio.gather(dying, return_exceptions=True)
            pbx.time += LEASE
    poison, good = await pbx.rows()
    assert claims == 3
    assert (poison.parked_at, poison.error) == (pbx.time, "TimeoutError")
    assert good.parked_at == pbx.time  # the relays that sent it did not live to say so
    assert recorder.targets == ["good"] * 3


async def test_a_relay_that_was_thought_dead_may_still_say_that_it_was_published(
    pbx: Service,
) -> None:
    await pbx.forward()
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Outgoing) -> None:
        begun.set()
        await go.wait()

    async with asyncio.timeout(20):
        relay = pbx.relay(slow, attempts=1)
        first = asyncio.create_task(relay.relay_batch())
        await begun.wait()
        pbx.time += LEASE
        assert await pbx.relay(Recorder(), attempts=1).relay_batch() == 0
        assert (await pbx.rows())[0].parked_at == pbx.time
        go.set()
        assert await first == 1
    (row,) = await pbx.rows()
    assert (row.published_at, row.parked_at, row.error) == (pbx.time, None, None)


async def test_two_relays_share_the_work_and_send_nothing_twice(pbx: Service) -> None:
    for number in range(60):
        await pbx.forward(str(1001 + number % 10), str(number))
    recorder = Recorder()
    relays = [pbx.relay(recorder, batch=3) for _ in range(2)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(one.drain() for one in relays))
        while len(recorder.sent) < 60:  # one found the other's keys waiting, and left
            await relays[0].drain()
    assert sorted(recorder.targets, key=int) == [str(one) for one in range(60)]
    assert in_order_of_key(recorder)


def in_order_of_key(recorder: Recorder) -> bool:
    """Return whether the numbers of each extension were sent in rising order."""
    keys: dict[int, list[int]] = {}
    for one in map(int, recorder.targets):
        keys.setdefault(one % 10, []).append(one)
    return all(found == sorted(found) for found in keys.values())


@pytest.mark.backends("postgresql")
async def test_a_relay_takes_rows_that_another_has_not_locked(pbx: Service) -> None:
    for number in ("1001", "1002"):
        await pbx.forward(number, number)
    recorder = Recorder()
    first = sa.select(OutboxMessage).order_by(OutboxMessage.id).limit(1)
    async with asyncio.timeout(20), session_scope(pbx.sessions) as session:
        await session.scalars(first.with_for_update())
        assert await pbx.relay(recorder).drain() == 1
    assert recorder.targets == ["1002"]


async def test_nothing_is_locked_and_no_connection_held_while_it_publishes(
    pbx: Service, proof: Proof
) -> None:
    await pbx.forward()
    held: list[int] = []

    async def look(_: Outgoing) -> None:
        assert isinstance(pbx.engine.pool, QueuePool)
        held.append(pbx.engine.pool.checkedout())
        async with session_scope(pbx.sessions) as session:
            await session.execute(sa.update(OutboxMessage).values(key="other"))

    async with asyncio.timeout(20):
        assert await pbx.relay(Recorder(during=look)).drain() == 1
    assert held == [0]
    assert [one.key for one in await pbx.rows()] == ["other"]
    proof.cost("while it publishes", connections=0, row_locks=0)


async def test_a_key_waits_for_its_head_and_no_other_waits(pbx: Service) -> None:
    for target in ("a1", "b1", "a2", "b2"):
        await pbx.forward("1001" if target < "b" else "1002", target)
    bad = {"a1"}

    def fail(message: Outgoing) -> Exception | None:
        return UnconfirmedError() if target_of(message) in bad else None

    recorder = Recorder(fail)
    relay = pbx.relay(recorder)
    await relay.drain()
    assert recorder.targets == ["b1", "b2"]
    bad.clear()
    assert await relay.drain() == 0  # it is not due yet
    pbx.time += 1
    assert await relay.drain() == 2
    assert recorder.targets == ["b1", "b2", "a1", "a2"]


async def test_events_without_a_key_wait_for_nobody(pbx: Service) -> None:
    for target in ("one", "two"):
        await pbx.forward("1001", target)
    async with session_scope(pbx.sessions) as session:
        await session.execute(sa.update(OutboxMessage).values(key=None))
    recorder = Recorder(lambda one: away(one) if target_of(one) == "one" else None)
    await pbx.relay(recorder).drain()
    assert recorder.targets == ["two"]


async def test_the_wait_doubles_up_to_its_limit_and_then_the_event_is_parked(
    pbx: Service,
) -> None:
    event_id = await pbx.forward()
    relay = pbx.relay(Recorder(away), attempts=12)
    waits: list[float] = []
    while len(waits) < 12:
        await relay.relay_batch()
        due_at = (await pbx.rows())[0].due_at
        waits.append(due_at - pbx.time)
        pbx.time = due_at
    (row,) = await pbx.rows()
    assert waits[:11] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert (row.attempts, row.error, row.message_id) == (
        12,
        "UnconfirmedError",
        event_id,
    )
    assert row.parked_at == pbx.time - waits[11]
    pbx.time += 1_000_000
    assert await pbx.relay(Recorder()).drain() == 0


@pytest.mark.parametrize(("part", "seconds"), [(min, 1755.5), (max, 3511)])
async def test_an_outage_of_half_an_hour_parks_nothing_by_default(
    pbx: Service, part: Callable[[float, float], float], seconds: float
) -> None:
    await pbx.forward()
    relay = pbx.relay(Recorder(away), uniform=part)
    defaults = {one.name: one.default for one in fields(OutboxRelay)}
    assert (relay.attempts, relay.longest) == (
        defaults["attempts"],
        defaults["longest"],
    )
    while (await pbx.rows())[0].parked_at is None:
        pbx.time = (await pbx.rows())[0].due_at or NOW
        await relay.relay_batch()
    assert pbx.time - NOW == seconds


async def test_a_parked_event_holds_its_key_until_its_row_is_deleted(
    pbx: Service,
) -> None:
    for target in ("a1", "b1", "a2"):
        await pbx.forward("1001" if target < "b" else "1002", target)
    recorder = Recorder(
        lambda one: UnroutableError() if target_of(one) == "a1" else None
    )
    relay = pbx.relay(recorder, attempts=1)
    await relay.drain()
    assert recorder.targets == ["b1"]
    pbx.time += 1_000_000
    assert await relay.drain() == 0
    async with session_scope(pbx.sessions) as session:
        parked = OutboxMessage.parked_at.is_not(None)
        await session.execute(sa.delete(OutboxMessage).where(parked))
    await relay.drain()
    assert recorder.targets == ["b1", "a2"]


async def test_an_event_that_cannot_be_sent_does_not_stop_its_neighbours(
    pbx: Service,
) -> None:
    for number in ("1001", "1002", "1003"):
        await pbx.forward(number, number)
    poison: list[Exception] = [ValueError("canary-4f1c"), TypeError("canary-4f1c")]
    recorder = Recorder(lambda one: poison.pop() if target_of(one) != "1002" else None)
    await pbx.relay(recorder).drain()
    assert recorder.targets == ["1002"]
    errors = [one.error for one in await pbx.rows()]
    assert sorted(filter(None, errors)) == ["TypeError", "ValueError"]


async def test_a_claim_that_was_taken_over_is_not_given_back_by_its_first_owner(
    pbx: Service,
) -> None:
    await pbx.forward()
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Outgoing) -> None:
        begun.set()
        await go.wait()

    first = asyncio.create_task(pbx.relay(Recorder(away, during=slow)).drain())
    await begun.wait()
    pbx.time += LEASE
    second_begun, second_go = asyncio.Event(), asyncio.Event()

    async def slower(_: Outgoing) -> None:
        second_begun.set()
        await second_go.wait()

    second = asyncio.create_task(pbx.relay(Recorder(during=slower)).drain())
    await second_begun.wait()
    go.set()
    await first
    (row,) = await pbx.rows()
    assert (row.attempts, row.error, row.due_at) == (2, None, pbx.time + LEASE)
    second_go.set()
    assert await second == 1


async def test_an_outage_costs_one_attempt_of_one_batch_per_round(
    pbx: Service,
) -> None:
    for number in range(6):
        await pbx.forward(str(1001 + number))
    assert await pbx.relay(Recorder(away), batch=2).drain() == 0
    assert [one.attempts for one in await pbx.rows()] == [1, 1, 0, 0, 0, 0]


class Rounds:
    """Tells a test each time that a relay gives its connection back."""

    def __init__(self, pbx: Service) -> None:
        """Listen."""
        self.ended: asyncio.Queue[None] = asyncio.Queue()
        assert isinstance(pbx.engine.pool, QueuePool)
        self.pool = pbx.engine.pool
        sa.event.listen(self.pool, "checkin", self._checked_in)

    def _checked_in(self, *_: object) -> None:
        self.ended.put_nowait(None)


@asynccontextmanager
async def running(relay: OutboxRelay, rounds: Rounds) -> AsyncIterator[None]:
    """Run a relay inside the block; end it while it waits, and not in a statement."""
    task = asyncio.create_task(relay.run())
    async with asyncio.timeout(20):
        yield
        while rounds.pool.checkedout():
            await rounds.ended.get()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Waiting(asyncio.Event):
    """What a relay waits for, which tells a test that it does."""

    def __init__(self) -> None:
        """Begin with a relay that works."""
        super().__init__()
        self.begun: asyncio.Queue[bool] = asyncio.Queue()

    async def wait(self) -> Literal[True]:
        """Say whether there is anything to wait for, and wait."""
        self.begun.put_nowait(not self.is_set())
        return await super().wait()


async def test_an_idle_relay_makes_one_select_and_waits(
    pbx: Service, proof: Proof
) -> None:
    """It waits for an hour, unless somebody wakes it."""
    rounds, waiting = Rounds(pbx), Waiting()
    relay = pbx.relay(Recorder())
    relay.woken = waiting
    with count_sql(pbx.engine) as seen:
        async with running(relay, rounds):
            for number in (1, 2, 3):
                assert await waiting.begun.get()
                assert waiting.begun.empty()
                assert [one.split()[0] for one in seen.texts] == ["SELECT"] * number
                assert seen.begins == number
                relay.wake()
            assert await waiting.begun.get()
    proof.cost("idle relay, per interval", selects=1)


async def test_an_idle_relay_looks_again_after_each_interval(pbx: Service) -> None:
    rounds, waiting = Rounds(pbx), Waiting()
    relay = pbx.relay(Recorder())
    relay.woken, relay.interval = waiting, 0
    with count_sql(pbx.engine) as seen:
        async with running(relay, rounds):
            for number in (1, 2, 3):
                assert await waiting.begun.get()
                assert len(seen.texts) == number


async def test_a_commit_wakes_a_relay_that_would_sleep_for_an_hour(
    pbx: Service,
) -> None:
    sent: asyncio.Queue[Outgoing] = asyncio.Queue()
    relay = pbx.relay(sent.put)
    rounds = Rounds(pbx)
    wake_after_commit(pbx.sessions, relay.wake)
    async with running(relay, rounds):
        await rounds.ended.get()
        for _ in range(2):
            event_id = await pbx.forward()
            assert (await sent.get()).message_id == str(event_id)
        while len([one for one in await pbx.rows() if one.published_at]) < 2:
            await rounds.ended.get()


async def test_a_commit_that_gave_no_hint_is_found_after_the_interval(
    pbx: Service,
) -> None:
    sent: asyncio.Queue[Outgoing] = asyncio.Queue()
    relay = pbx.relay(sent.put)
    relay.interval = 0
    rounds = Rounds(pbx)
    async with running(relay, rounds):
        await rounds.ended.get()
        event_id = await pbx.forward()
        assert (await sent.get()).message_id == str(event_id)
        while not (await pbx.rows())[0].published_at:
            await rounds.ended.get()


async def test_a_relay_outlives_an_error_of_the_database_and_logs_no_text_of_it(
    pbx: Service, caplog: pytest.LogCaptureFixture
) -> None:
    sent: asyncio.Queue[Outgoing] = asyncio.Queue()
    relay = pbx.relay(sent.put)
    relay.interval = 0
    await pbx.forward()
    failures: list[int] = []

    def fail(*_: object) -> None:
        if len(failures) < 3:
            failures.append(1)
            raise OperationalError("canary-4f1c", None, OSError())

    sa.event.listen(pbx.engine.sync_engine, "before_cursor_execute", fail)
    rounds = Rounds(pbx)
    async with running(relay, rounds):
        await sent.get()
        while not (await pbx.rows())[0].published_at:
            await rounds.ended.get()
    assert caplog.messages.count("the outbox is not relayed: OperationalError") == 3
    assert "canary" not in caplog.text


async def test_the_log_names_the_event_and_its_correlation_id(
    pbx: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "snippets.messaging.outbox_relay")
    event_id = await pbx.forward()
    await pbx.relay(Recorder(away)).drain()
    pbx.time += 1
    await pbx.relay(Recorder()).drain()
    assert caplog.messages == [
        f"{event_id} is not published: UnconfirmedError",
        f"published extension.forwarded {event_id} of 'request-1'",
    ]


async def test_the_naive_relay_repeats_a_whole_batch_and_stops_at_the_first_error(
    pbx: Service, proof: Proof
) -> None:
    for number in ("1001", "1002", "1003", "1004", "1005"):
        await pbx.forward(number, number)
    recorder = Recorder(lambda one: away(one) if target_of(one) == "1005" else None)
    for _ in range(3):
        with pytest.raises(UnconfirmedError):
            await outbox_relay_naive.relay_batch(pbx.sessions, recorder, "events")
    assert recorder.targets == ["1001", "1002", "1003", "1004"] * 3
    assert [one.published_at for one in await pbx.rows()] == [None] * 5
    proof.breaks(
        "The fifth message of a batch cannot be published",
        "The four before it are sent again and again, and none after it ever is",
    )


async def test_two_naive_relays_send_everything_twice(
    pbx: Service, proof: Proof
) -> None:
    for number in ("1001", "1002", "1003"):
        await pbx.forward(number, number)
    both, recorder = asyncio.Barrier(2), Recorder()

    async def meet(_: Outgoing) -> None:
        await both.wait()

    recorder.during = meet
    relays = [
        outbox_relay_naive.relay_batch(pbx.sessions, recorder, "events")
        for _ in range(2)
    ]
    async with asyncio.timeout(20):
        await asyncio.gather(*relays, return_exceptions=True)
    assert len(recorder.sent) == 6
    proof.breaks("Two relays run", "Every message is sent twice")
