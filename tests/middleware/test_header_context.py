"""An id is one and the same everywhere, and never one that the service refuses."""

import asyncio
import logging
import string
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from typing import ClassVar

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from catalogue.plugin import Proof
from snippets.middleware.header_context import (
    ID_LENGTH,
    CorrelationIDMiddleware,
    HeaderContextFilter,
    HeaderContextMiddleware,
    RequestIDMiddleware,
    correlation_headers,
    correlation_id,
    forward_correlation_id,
    random_id,
    request_id,
)
from tests.support.asgi import (
    Exchange,
    Receive,
    Scope,
    Send,
    values_of,
    websocket_scope,
)
from tests.support.counters import count_round_trips

HOSTILE = {
    "5,000 characters": b"a" * 5000,
    "64 KB": b"a" * 65536,
    "a carriage return and a line feed": b"a\r\nSet-Cookie: b=c",
    "a line feed at the end": b"a\n",
    "an escape": b"a\x1b[31m",
    "not latin-1": "日本".encode(),
    "latin-1": "é".encode("latin-1"),
    "a blank": b"a b",
    "nothing": b"",
    "one character too many": b"a" * 129,
}


async def show(scope: Scope, _: Receive, send: Send) -> None:
    """Answer with what the application sees of the ids."""
    seen = [scope["state"]["request_id"], request_id.get() or "none"]
    seen += values_of(scope["headers"], "X-Request-ID")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": " ".join(seen).encode()})


@pytest.mark.parametrize(
    "value", ["a", "a" * 128, string.ascii_letters + string.digits + "._-"]
)
async def test_a_valid_id_is_kept_in_state_context_headers_and_answer(
    value: str, proof: Proof
) -> None:
    exchange = Exchange(headers=[("X-Request-ID", value)])
    with count_round_trips() as trips:
        await exchange.run(RequestIDMiddleware(show))

    assert exchange.values("X-Request-ID") == [value]
    assert exchange.body.decode() == " ".join([value] * 3)
    assert trips.total == 0
    proof.cost("a request", round_trips=trips.total)


@pytest.fixture
def filtered(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, with ids."""
    with caplog.filtering(HeaderContextFilter()):
        yield caplog


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
async def test_what_is_no_id_is_replaced_and_reaches_nobody(
    value: bytes, filtered: pytest.LogCaptureFixture
) -> None:
    async def log(scope: Scope, receive: Receive, send: Send) -> None:
        logging.getLogger("telephony").warning("ringing")
        await show(scope, receive, send)

    exchange = Exchange(headers=[("X-Request-ID", value)])
    await exchange.run(RequestIDMiddleware(log))

    [chosen] = exchange.values("X-Request-ID")
    assert len(chosen) == 32
    assert set(chosen) <= set(string.hexdigits)
    assert exchange.body.decode() == " ".join([chosen] * 3)
    assert value not in [sent for _, sent in exchange.scope["headers"]]
    assert [vars(record)["request_id"] for record in filtered.records] == [chosen]


async def test_no_byte_but_those_that_are_named_is_kept() -> None:
    kept = set[int]()
    for byte in range(256):
        value = bytes([byte])
        exchange = Exchange(headers=[("X-Request-ID", b"a" + value + b"b")])
        await exchange.run(RequestIDMiddleware(show))
        if exchange.values("X-Request-ID") == [f"a{value.decode('latin-1')}b"]:
            kept.add(byte)

    assert kept == {*(string.ascii_letters + string.digits + "._-").encode()}


async def test_of_several_ids_the_first_valid_one_counts_and_is_left_alone() -> None:
    headers = [("X-Request-ID", one) for one in ("not this", "first", "second")]
    exchange = Exchange(headers=[*headers, ("X-Other", "kept")])
    await exchange.run(RequestIDMiddleware(show))

    assert exchange.values("X-Request-ID") == ["first"]
    assert values_of(exchange.scope["headers"], "X-Request-ID") == ["first"]
    assert values_of(exchange.scope["headers"], "X-Other") == ["kept"]


@pytest.mark.parametrize("name", [b"x-request-id", b"X-Request-ID"])
async def test_an_id_that_the_application_sets_is_replaced(name: bytes) -> None:
    async def set_it(_: Scope, __: Receive, send: Send) -> None:
        headers = [(name, b"other"), (b"x-other", b"kept"), (name, b"another")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    exchange = Exchange(headers=[("X-Request-ID", "mine")])
    await exchange.run(RequestIDMiddleware(set_it))

    assert exchange.values("X-Request-ID") == ["mine"]
    assert exchange.values("X-Other") == ["kept"]


async def test_without_trust_every_request_is_given_a_new_id() -> None:
    ids = iter(["new-1", "new-2"])
    app = RequestIDMiddleware(show, trust_inbound=False, new_id=lambda: next(ids))
    headers = [("X-Request-ID", "mine")]

    answers = [await Exchange(headers=headers).run(app) for _ in range(2)]

    assert [one.values("X-Request-ID") for one in answers] == [["new-1"], ["new-2"]]
    assert answers[0].body == b"new-1 new-1 new-1"


def test_ten_thousand_ids_are_ten_thousand() -> None:
    assert len({random_id() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("ends_by", ["returning", "an exception", "cancellation"])
async def test_the_context_is_what_it_was_before(ends_by: str) -> None:
    is_in, may_end = asyncio.Event(), asyncio.Event()

    async def end(_: Scope, __: Receive, ___: Send) -> None:
        assert request_id.get() == "inner"
        is_in.set()
        if ends_by == "an exception":
            raise LookupError
        if ends_by == "cancellation":
            await may_end.wait()

    exchange = Exchange(headers=[("X-Request-ID", "inner")])

    async def caller() -> str | None:
        request_id.set("outer")
        try:
            await exchange.run(RequestIDMiddleware(end))
        except (LookupError, asyncio.CancelledError):
            assert ends_by != "returning"
        return request_id.get()

    task = asyncio.create_task(caller())
    await is_in.wait()
    if ends_by == "cancellation":
        task.cancel()
    assert await task == "outer"


async def test_the_exception_itself_goes_on_and_nothing_is_sent() -> None:
    error = LookupError("no such extension")

    async def fail(_: Scope, __: Receive, ___: Send) -> None:
        raise error

    exchange = Exchange()
    with pytest.raises(LookupError) as raised:
        await exchange.run(RequestIDMiddleware(CorrelationIDMiddleware(fail)))

    assert raised.value is error
    assert exchange.sent == []


async def test_an_exception_after_the_start_of_the_answer_goes_on_too() -> None:
    async def fail_late(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise LookupError

    exchange = Exchange(headers=[("X-Request-ID", "mine")])
    with pytest.raises(LookupError):
        await exchange.run(RequestIDMiddleware(fail_late))

    assert [one["type"] for one in exchange.sent] == ["http.response.start"]
    assert exchange.values("X-Request-ID") == ["mine"]
    assert request_id.get() is None


async def test_an_application_called_from_within_has_an_id_of_its_own() -> None:
    seen = []

    async def call_other(scope: Scope, receive: Receive, send: Send) -> None:
        other = Exchange(headers=[("X-Request-ID", "inner")])
        await other.run(RequestIDMiddleware(show))
        seen.append((other.body, request_id.get()))
        await show(scope, receive, send)

    exchange = Exchange(headers=[("X-Request-ID", "outer")])
    await exchange.run(RequestIDMiddleware(call_other))

    assert seen == [(b"inner inner inner", "outer")]
    assert exchange.body == b"outer outer outer"


async def test_one_inside_another_keeps_the_id_of_the_outer_one() -> None:
    app = RequestIDMiddleware(RequestIDMiddleware(show))
    exchange = await Exchange(headers=[("X-Request-ID", "not valid")]).run(app)

    [chosen] = exchange.values("X-Request-ID")
    assert exchange.body.decode() == " ".join([chosen] * 3)


async def test_a_lifespan_passes_untouched() -> None:
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    calls = []

    async def start(*given: object) -> None:
        calls.append(given)

    exchange = Exchange()
    await RequestIDMiddleware(start)(scope, exchange.receive, exchange.send)

    [(given, receive, send)] = calls
    assert given is scope
    assert scope == {"type": "lifespan", "asgi": {"version": "3.0"}}
    assert (receive, send) == (exchange.receive, exchange.send)


@pytest.mark.parametrize(
    "answer", ["websocket.accept", "websocket.http.response.start"]
)
async def test_a_websocket_has_an_id_whether_it_is_accepted_or_refused(
    answer: str,
) -> None:
    seen = []

    async def talk(scope: Scope, _: Receive, send: Send) -> None:
        seen.append((scope["state"]["request_id"], request_id.get()))
        await send({"type": answer})
        await send({"type": "websocket.close"})

    exchange = Exchange()
    scope = websocket_scope(headers=[("X-Request-ID", "socket-1")])
    await RequestIDMiddleware(talk)(scope, exchange.receive, exchange.send)

    assert seen == [("socket-1", "socket-1")]
    assert exchange.sent[0]["headers"] == [(b"x-request-id", b"socket-1")]
    assert exchange.sent[1] == {"type": "websocket.close"}


async def test_a_chunk_is_passed_on_before_the_next_one_exists(proof: Proof) -> None:
    may_go_on = asyncio.Event()
    last = {"type": "http.response.body", "body": b"last"}

    async def stream(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await may_go_on.wait()
        await send(last)

    exchange = Exchange()
    running = asyncio.create_task(exchange.run(RequestIDMiddleware(stream)))
    await exchange.until(lambda sent: len(sent) == 2)
    assert exchange.chunks == [b"1"]
    may_go_on.set()
    await running

    assert exchange.sent[-1] is last
    proof.cost("a chunk of a body", copies=0)


async def test_a_hundred_requests_at_once_see_only_their_own_ids() -> None:
    everybody_is_in = asyncio.Barrier(100)

    async def meet(scope: Scope, receive: Receive, send: Send) -> None:
        await everybody_is_in.wait()
        in_a_task = await asyncio.create_task(read())
        in_a_thread = await asyncio.to_thread(request_id.get)
        assert in_a_task == in_a_thread == request_id.get()
        await show(scope, receive, send)

    async def read() -> str | None:
        return request_id.get()

    app = RequestIDMiddleware(meet)
    names = [f"request-{number}" for number in range(100)]
    answers = await asyncio.gather(
        *(Exchange(headers=[("X-Request-ID", name)]).run(app) for name in names)
    )

    assert [one.body.decode().split() for one in answers] == [
        [one] * 3 for one in names
    ]
    assert [one.values("X-Request-ID") for one in answers] == [[one] for one in names]


async def test_the_two_ids_are_two() -> None:
    exchange = Exchange(headers=[("X-Request-ID", "r"), ("X-Correlation-ID", "c")])
    await exchange.run(RequestIDMiddleware(CorrelationIDMiddleware(show)))

    assert exchange.scope["state"] == {"request_id": "r", "correlation_id": "c"}
    assert exchange.values("X-Request-ID") == ["r"]
    assert exchange.values("X-Correlation-ID") == ["c"]


async def test_a_correlation_id_is_kept_over_three_hops_of_httpx() -> None:
    seen = []

    def service(following: httpx.AsyncClient | None) -> CorrelationIDMiddleware:
        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(correlation_id.get())
            if following:
                await following.get("/")
            await show(scope, receive, send)

        return CorrelationIDMiddleware(RequestIDMiddleware(work))

    def client_of(app: CorrelationIDMiddleware) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://test",
            event_hooks={"request": [forward_correlation_id]},
        )

    third = client_of(service(None))
    second = client_of(service(third))
    async with third, second, client_of(service(second)) as first:
        given = await first.get("/", headers={"X-Correlation-ID": "order-66"})
        chosen = await first.get("/")

    assert seen[:3] == ["order-66"] * 3
    assert given.headers.get_list("X-Correlation-ID") == ["order-66"]
    assert len(set(seen[3:])) == 1
    assert chosen.headers["X-Correlation-ID"] == seen[3] != "order-66"


async def test_an_id_that_the_caller_of_httpx_gives_is_not_replaced() -> None:
    token = correlation_id.set("of-the-context")
    request = httpx.Request("GET", "/", headers={"x-correlation-id": "given"})
    await forward_correlation_id(request)
    correlation_id.reset(token)

    assert request.headers.get_list("X-Correlation-ID") == ["given"]


async def test_nothing_is_forwarded_outside_of_a_request() -> None:
    request = httpx.Request("GET", "/")
    await forward_correlation_id(request)

    assert "X-Correlation-ID" not in request.headers
    assert correlation_headers() == {}


async def test_messages_carry_the_id_also_from_a_task_that_outlives_the_request() -> (
    None
):
    published: list[dict[str, str]] = []
    tasks: list[asyncio.Task[None]] = []
    is_answered = asyncio.Event()

    async def publish() -> None:
        await is_answered.wait()
        published.append(correlation_headers())

    async def start(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.create_task(publish()))
        await show(scope, receive, send)

    headers = [("X-Correlation-ID", "order-66")]
    app = RequestIDMiddleware(CorrelationIDMiddleware(start))
    await Exchange(headers=headers).run(app)
    is_answered.set()
    await asyncio.gather(*tasks)

    assert published == [{"X-Correlation-ID": "order-66"}]
    assert correlation_id.get() is None


async def test_the_longest_id_fits_a_column_of_the_length_that_is_named(
    engine: AsyncEngine,
) -> None:
    table = sa.Table(
        "outbox", sa.MetaData(), sa.Column("correlation_id", sa.String(ID_LENGTH))
    )
    longest = "a" * ID_LENGTH
    exchange = Exchange(headers=[("X-Correlation-ID", longest)])
    async with engine.begin() as connection:
        await connection.run_sync(table.create)

    async def store(_: Scope, __: Receive, ___: Send) -> None:
        row = {"correlation_id": correlation_id.get()}
        async with engine.begin() as connection:
            await connection.execute(sa.insert(table), row)

    await exchange.run(CorrelationIDMiddleware(store))

    async with engine.connect() as connection:
        assert await connection.scalar(sa.select(table.c[0])) == longest


@pytest.mark.backends("postgresql")
async def test_a_column_of_36_characters_refuses_an_id_that_is_valid(
    engine: AsyncEngine,
) -> None:
    table = sa.Table(
        "outbox", sa.MetaData(), sa.Column("correlation_id", sa.String(36))
    )
    async with engine.begin() as connection:
        await connection.run_sync(table.create)
        with pytest.raises(DBAPIError, match="too long"):
            await connection.execute(sa.insert(table), {"correlation_id": "a" * 128})


async def test_a_subclass_carries_another_header() -> None:
    tenants: ContextVar[str | None] = ContextVar("tenant", default=None)
    seen = Counter[str | None]()

    class TenantMiddleware(HeaderContextMiddleware):
        """Carry the tenant."""

        header: ClassVar[str] = "X-Tenant"
        variable: ClassVar[ContextVar[str | None]] = tenants

    async def count(scope: Scope, _: Receive, __: Send) -> None:
        seen[tenants.get()] += 1
        seen[scope["state"]["tenant"]] += 1

    await Exchange(headers=[("X-Tenant", "acme")]).run(TenantMiddleware(count))

    assert seen == {"acme": 2}


async def test_a_record_outside_of_a_request_has_dashes_or_what_it_came_with(
    filtered: pytest.LogCaptureFixture,
) -> None:
    telephony = logging.getLogger("telephony")
    telephony.warning("started")
    for given in ("r-1", None):
        telephony.warning("from another thread", extra={"request_id": given})

    ids = [
        (vars(one)["request_id"], vars(one)["correlation_id"])
        for one in filtered.records
    ]
    assert ids == [("-", "-"), ("r-1", "-"), ("-", "-")]
