"""The service is asked by its protocol, and only its own word is an answer."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import HTTPException

from catalogue.plugin import Proof
from snippets.auth import auth_service_naive
from snippets.auth.auth_service import AuthServiceClient
from snippets.auth.token_auth import (
    AuthUnavailableError,
    InvalidTokenError,
    PermissionDeniedError,
)
from tests.support.auth_service import ACME, GLOBEX, AuthService
from tests.support.dead_ports import dead_port
from tests.support.pools import serve

HIDDEN = "b0a1c2d3-secret-of-ada"
PATIENCE = 60
"""Seconds after which something hangs."""


@pytest.fixture
def service() -> AuthService:
    """A service that knows Ada."""
    service = AuthService()
    service.log_in(HIDDEN, "ada", ["users.#"], tenants=[ACME, GLOBEX])
    return service


@pytest.fixture
def client(service: AuthService) -> AuthServiceClient:
    """A client of it, in process."""
    return client_of(httpx.ASGITransport(service))


def client_of(
    transport: httpx.AsyncBaseTransport, timeout: float = PATIENCE
) -> AuthServiceClient:
    """Return a client that uses this transport."""
    return AuthServiceClient("http://auth/", transport, timeout=timeout)


@dataclass
class Transport(httpx.AsyncBaseTransport):
    """Does what it is told for each request, the last thing for ever."""

    outcomes: list[Exception | httpx.Response]
    requests: list[httpx.Request] = field(default_factory=list)
    is_closed: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise or answer."""
        self.requests.append(request)
        outcome = self.outcomes[min(len(self.requests), len(self.outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Be closed."""
        self.is_closed = True


async def test_the_service_is_asked_as_its_protocol_says(
    client: AuthServiceClient, service: AuthService, proof: Proof
) -> None:
    await client.get_user(HIDDEN)
    await client.check(HIDDEN)
    await client.check(HIDDEN, scope="users.me.read&x=#?", tenant=UUID(GLOBEX))

    path = f"/api/auth/0.1/token/{HIDDEN}"
    assert service.requests[:2] == [("GET", path, b""), ("HEAD", path, b"")]
    method, asked, query = service.requests[2]
    assert (method, asked) == ("HEAD", path)
    assert httpx.QueryParams(query.decode()) == httpx.QueryParams(
        scope="users.me.read&x=#?", tenant=GLOBEX
    )
    proof.cost("get_user", http_requests=1)
    proof.cost("check", http_requests=1)


@pytest.mark.parametrize("token", ["a/b", "a+b", "a~b", "a==", "a/b/c", "YWxh+/0=="])
async def test_a_token_is_one_segment_of_the_path_whatever_it_is_made_of(
    client: AuthServiceClient, service: AuthService, token: str
) -> None:
    service.log_in(token, "grace")

    assert (await client.get_user(token)).auth_id == "grace"
    await client.check(token)

    for _, path, _ in service.requests:
        assert path.count("/") == 5


@pytest.mark.parametrize(
    "token", ["", ".", "..", "../users", "a/../b", "a?b", "a b", "a\n", "\xe9", "%2E"]
)
async def test_what_is_no_token_is_not_asked_about(
    client: AuthServiceClient, service: AuthService, token: str
) -> None:
    with pytest.raises(InvalidTokenError):
        await client.get_user(token)
    with pytest.raises(InvalidTokenError):
        await client.check(token)
    assert service.calls == 0


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, InvalidTokenError),
        (403, PermissionDeniedError),
        *((status, AuthUnavailableError) for status in (200, 201, 400, 401, 402, 405)),
        *((status, AuthUnavailableError) for status in (410, 429, 500, 502, 503, 504)),
        *((status, AuthUnavailableError) for status in (301, 302, 307, 308)),
    ],
)
async def test_a_check_has_three_ends_and_no_status_leads_to_a_wrong_one(
    client: AuthServiceClient,
    service: AuthService,
    status: int,
    expected: type[Exception],
) -> None:
    service.status = status
    with pytest.raises(expected):
        await client.check(HIDDEN)


@pytest.mark.parametrize("status", [204, 301, 302, 400, 401, 403, 429, 500, 503])
async def test_only_404_makes_a_token_invalid(
    client: AuthServiceClient, service: AuthService, status: int
) -> None:
    service.status = status
    with pytest.raises(AuthUnavailableError):
        await client.get_user(HIDDEN)
    service.status = 404
    with pytest.raises(InvalidTokenError):
        await client.get_user(HIDDEN)


async def test_a_redirect_is_not_followed_with_the_token(
    client: AuthServiceClient, service: AuthService
) -> None:
    service.headers = {"location": f"http://evil/{HIDDEN}"}
    for status in (301, 302, 303, 307, 308):
        service.status = status
        with pytest.raises(AuthUnavailableError):
            await client.get_user(HIDDEN)
    assert service.calls == 5


DATA: dict[str, Any] = {
    "token": HIDDEN,
    "auth_id": "ada",
    "session_uuid": "s1",
    "utc_issued_at": "2026-11-27T12:00:00.000000",
    "utc_expires_at": "2026-11-27T13:00:00+01:00",
    "acl": ["a"],
    "metadata": {},
}


def without(name: str) -> dict[str, Any]:
    """Return the data with one thing left out."""
    return {key: value for key, value in DATA.items() if key != name}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"data": null}',
        b"\xff",
        *(json.dumps({"data": without(name)}).encode() for name in DATA),
        *(
            json.dumps({"data": {**DATA, **change}}).encode()
            for change in (
                {"acl": "#"},
                {"acl": [7]},
                {"acl": None},
                {"token": "other"},
                {"token": HIDDEN[:-1]},
                {"auth_id": 7},
                {"utc_expires_at": "soon"},
                {"utc_expires_at": "9999-12-31T23:59:59-01:00"},
                {"utc_issued_at": "0001-01-01T00:00:00+01:00"},
                {"utc_expires_at": 1e18},
                {"utc_expires_at": 1e400},
                {"metadata": {"tenant_uuid": "acme"}},
            )
        ),
    ],
)
async def test_an_answer_that_makes_no_sense_is_no_answer(
    client: AuthServiceClient, service: AuthService, body: bytes
) -> None:
    service.body = body
    with pytest.raises(AuthUnavailableError) as caught:
        await client.get_user(HIDDEN)
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "scope",
    [f"users.{'a' * 70_000}.read", "users.\ud800.read", "\udfff", "\U0001f4de" * 9_000],
)
async def test_a_scope_that_fits_into_no_url_is_permitted_to_nobody(
    client: AuthServiceClient, service: AuthService, scope: str
) -> None:
    service.log_in(HIDDEN, acl=["#"])
    with pytest.raises(PermissionDeniedError):
        await client.check(HIDDEN, scope=scope)
    assert service.calls == 0


async def test_times_are_in_utc_whether_they_have_an_offset_or_not(
    client: AuthServiceClient, service: AuthService
) -> None:
    service.body = json.dumps({"data": {**DATA, "more": "is ignored"}}).encode()
    user = await client.get_user(HIDDEN)
    assert user.issued_at.isoformat() == "2026-11-27T12:00:00+00:00"
    assert user.expires_at.isoformat() == "2026-11-27T12:00:00+00:00"
    assert user.tenant_uuid is None


REQUEST = httpx.Request("GET", f"http://auth/{HIDDEN}")


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow")]
)
async def test_a_connection_that_never_came_about_is_tried_once_more(
    error: Exception,
) -> None:
    answer = httpx.Response(200, json={"data": DATA})
    lucky, unlucky = Transport([error, answer]), Transport([error])

    assert (await client_of(lucky).get_user(HIDDEN)).auth_id == "ada"
    with pytest.raises(AuthUnavailableError) as caught:
        await client_of(unlucky).get_user(HIDDEN)

    assert (len(lucky.requests), len(unlucky.requests)) == (2, 2)
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.WriteError("broken"),
        httpx.RemoteProtocolError("nonsense"),
        httpx.PoolTimeout("busy"),
        httpx.DecodingError("not gzip"),
    ],
)
async def test_a_request_that_may_have_been_heard_is_not_repeated(
    error: Exception,
) -> None:
    transport = Transport([error])
    with pytest.raises(AuthUnavailableError):
        await client_of(transport).check(HIDDEN)
    assert len(transport.requests) == 1


async def test_a_service_that_does_not_answer_costs_one_time_limit(
    service: AuthService,
) -> None:
    service.may_answer = asyncio.Event()
    client = client_of(httpx.ASGITransport(service), timeout=0.05)

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(AuthUnavailableError):
            await client.get_user(HIDDEN)
    assert service.calls == 1


@pytest.fixture
async def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Awaitable[None]]:
    """Let so many seconds pass for the loop, and for nobody else."""
    loop = asyncio.get_running_loop()
    now, passed = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: now() + sum(passed))

    async def wait(seconds: float) -> None:
        passed.append(seconds)
        for _ in range(3):  # the loop calls what is due, and that cancels the task
            await asyncio.sleep(0)

    return wait


@dataclass
class Slow(httpx.AsyncBaseTransport):
    """Waits for its limits: connects in vain, or connects and then answers late."""

    wait: Callable[[float], Awaitable[None]]
    connects_at: int
    attempts: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Let the time pass that the request gives."""
        self.attempts += 1
        limits = request.extensions["timeout"]
        if self.attempts < self.connects_at:
            await self.wait(limits["connect"])
            raise httpx.ConnectTimeout("slow")
        await self.wait(limits["read"] * 0.9)
        return httpx.Response(204)


async def test_a_connection_that_uses_up_its_share_of_the_time_is_tried_once_more(
    wait: Callable[[float], Awaitable[None]],
) -> None:
    unlucky, lucky = Slow(wait, connects_at=9), Slow(wait, connects_at=1)
    with pytest.raises(AuthUnavailableError) as caught:
        await client_of(unlucky).check(HIDDEN)
    assert isinstance(caught.value.__cause__, httpx.ConnectTimeout)
    assert unlucky.attempts == 2
    await client_of(lucky).check(HIDDEN)


async def test_the_second_attempt_has_what_the_first_left_of_the_time(
    wait: Callable[[float], Awaitable[None]],
) -> None:
    transport = Slow(wait, connects_at=2)
    with pytest.raises(AuthUnavailableError) as caught:
        await client_of(transport).check(HIDDEN)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert transport.attempts == 2


@dataclass
class Body(httpx.AsyncByteStream):
    """A body that breaks off, or stops, after its first bytes."""

    breaks: bool
    is_closed: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield once."""
        yield b"{"
        if self.breaks:
            raise httpx.ReadError("reset")
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        """Be closed."""
        self.is_closed = True


@pytest.mark.parametrize("breaks", [True, False])
async def test_an_answer_that_is_not_read_to_its_end_is_closed(*, breaks: bool) -> None:
    body = Body(breaks)
    transport = Transport([httpx.Response(200, stream=body)])
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(AuthUnavailableError):
            await client_of(transport, PATIENCE if breaks else 0.05).get_user(HIDDEN)
    assert body.is_closed


async def test_a_body_that_never_ends_is_within_the_time_limit() -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0)

    client = client_of(Transport([httpx.Response(200, content=drip())]), timeout=0.05)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(AuthUnavailableError):
            await client.get_user(HIDDEN)


async def test_each_wait_of_the_transport_is_limited_too() -> None:
    transport = Transport([httpx.Response(204)])
    await client_of(transport, timeout=1.5).check(HIDDEN)
    limits = transport.requests[0].extensions["timeout"]
    assert limits == {"connect": 0.5, "read": 1.5, "write": 1.5, "pool": 1.5}


async def test_a_caller_who_goes_away_is_not_told_of_an_outage(
    service: AuthService, client: AuthServiceClient
) -> None:
    service.may_answer = asyncio.Event()
    caller = asyncio.create_task(client.get_user(HIDDEN))
    await service.asked.wait()
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()


async def test_the_client_closes_its_connections() -> None:
    transport = Transport([httpx.Response(204)])
    async with client_of(transport) as client:
        await client.check(HIDDEN)
        assert not transport.is_closed
    assert transport.is_closed


@asynccontextmanager
async def over_a_socket(service: AuthService) -> AsyncIterator[AuthServiceClient]:
    """Yield a client that reaches the service by TCP."""
    async with (
        serve(service) as port,
        AuthServiceClient(f"http://127.0.0.1:{port}", timeout=PATIENCE) as client,
    ):
        yield client


async def test_all_of_this_works_over_a_socket_and_no_log_has_the_token(
    service: AuthService, caplog: pytest.LogCaptureFixture
) -> None:
    service.log_in("a/b+c==", "grace")
    with caplog.at_level(logging.DEBUG):
        async with over_a_socket(service) as client:
            assert (await client.get_user(HIDDEN)).auth_id == "ada"
            assert (await client.get_user("a/b+c==")).auth_id == "grace"
            await client.check(HIDDEN, scope="users.7.read", tenant=UUID(GLOBEX))
            with pytest.raises(PermissionDeniedError):
                await client.check(HIDDEN, scope="calls.7.read")
            service.revoke(HIDDEN)
            with pytest.raises(InvalidTokenError):
                await client.check(HIDDEN)
            with pytest.raises(InvalidTokenError):
                await client.get_user(HIDDEN)
            service.status = 500
            with pytest.raises(AuthUnavailableError):
                await client.get_user(HIDDEN)

    assert caplog.records  # of what is below the transport
    assert HIDDEN not in caplog.text
    assert "a%2Fb" not in caplog.text


async def test_a_service_that_is_gone_is_unavailable() -> None:
    with dead_port() as port:
        client = AuthServiceClient(f"http://127.0.0.1:{port}", timeout=PATIENCE)
        with pytest.raises(AuthUnavailableError) as caught:
            async with client:
                await client.get_user(HIDDEN)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


async def test_the_environments_proxy_is_not_told_the_token(
    service: AuthService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dead_port() as port:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        async with over_a_socket(service) as client:
            assert (await client.get_user(HIDDEN)).auth_id == "ada"


async def naive_status(http: httpx.AsyncClient, token: str = HIDDEN) -> int:
    """Return the status that the naive client makes of what happens."""
    with pytest.raises(HTTPException) as caught:
        await auth_service_naive.get_token_data(http, token)
    return caught.value.status_code


async def test_the_naive_client_takes_a_refused_connection_for_a_bad_token(
    proof: Proof,
) -> None:
    with dead_port() as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert await naive_status(http) == 401
    proof.breaks("The connection is refused", "a valid token is told 401")


async def test_the_naive_client_writes_tokens_into_the_log(
    service: AuthService, caplog: pytest.LogCaptureFixture, proof: Proof
) -> None:
    transport = httpx.ASGITransport(service)
    with caplog.at_level(logging.INFO):
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            await auth_service_naive.get_token_data(http, HIDDEN)
    assert HIDDEN in caplog.text
    proof.breaks("The log level is INFO", "httpx logs each token with its URL")


async def test_the_naive_client_lets_a_token_choose_the_resource(
    service: AuthService, proof: Proof
) -> None:
    transport = httpx.ASGITransport(service)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
        await naive_status(http, "../users")
    assert service.requests[0][1] == "/api/auth/0.1/users"
    proof.breaks('The token is "../users"', "another resource is asked for")
