"""Verification, cache and permissions together, as the wiring shows them."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from snippets.auth import token_cache
from snippets.auth.auth_service import PATH
from snippets.auth.require_acl import EXTENSION
from snippets.auth.token_cache import TokenCache
from snippets.auth.token_cache_wiring import create_app
from tests.support.auth_service import AuthService, Clock
from tests.support.dead_ports import dead_port
from tests.support.pools import serve
from tests.support.redis_faults import tcp_server
from tests.support.servers import address


@pytest.fixture
def redis_url(redis_backend: str) -> Iterator[str]:
    """The URL of a Redis that answers."""
    if redis_backend == "redis":
        yield address("REDIS_URL")
        return
    with tcp_server() as url:
        yield url


@pytest.fixture
def service() -> AuthService:
    """A service with the time of today."""
    return AuthService(clock=Clock(datetime.now(UTC)))


@pytest.fixture
def hidden(service: AuthService) -> str:
    """A token of Ada's that no other test has."""
    return service.log_in(uuid4().hex, "ada", ["users.me.read"])


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application, and yield a client of it."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://pbx") as client,
    ):
        yield client


async def statuses(
    http: httpx.AsyncClient, token: str, *paths: str
) -> list[tuple[int, str | None, str | None]]:
    """Return the status, challenge and delay that each path is answered with."""
    answers = [await http.get(path, headers={"X-Auth-Token": token}) for path in paths]
    return [
        (
            answer.status_code,
            answer.headers.get("www-authenticate"),
            answer.headers.get("retry-after"),
        )
        for answer in answers
    ]


async def test_401_403_and_503_are_never_confused(
    redis_url: str, service: AuthService, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "REFUSAL_LIFE", timedelta(minutes=1))
    app = create_app("http://auth", redis_url, httpx.ASGITransport(service))
    async with running(app) as http:
        paths = ["/users/ada", "/users/grace"]
        for _ in ("miss", "hit"):
            assert await statuses(http, hidden, *paths) == [
                (200, None, None),
                (403, None, None),
            ]
            assert (
                await statuses(http, hidden[1:], *paths) == [(401, "APIKey", None)] * 2
            )
        assert service.calls == 2
        service.status = 500
        assert await statuses(http, hidden, *paths) == [
            (200, None, None),
            (403, None, None),
        ]
        assert await statuses(http, "other", *paths) == [(503, None, "5")] * 2
        assert isinstance(app.state.auth_client, TokenCache)
    assert {path.removesuffix(hidden) for _, path, _ in service.requests} >= {PATH}


async def test_a_revocation_by_request_reaches_a_cached_token_at_once(
    redis_url: str, service: AuthService, hidden: str
) -> None:
    admin = {"X-Auth-Token": service.log_in(uuid4().hex, "root", ["#"])}
    app = create_app("http://auth", redis_url, httpx.ASGITransport(service))
    async with running(app) as http:
        assert (await statuses(http, hidden, "/users/ada"))[0][0] == 200
        refused = await http.post(
            "/revocations", json={"token": hidden}, headers={"X-Auth-Token": hidden}
        )
        assert refused.status_code == 403
        service.revoke(hidden)
        revoked = await http.post("/revocations", json={"token": hidden}, headers=admin)
        assert revoked.status_code == 204
        assert (await statuses(http, hidden, "/users/ada"))[0][0] == 401


@pytest.mark.parametrize(
    "body",
    [
        '{"token": ["%s"]}',
        '{"token": {"%s": 1}}',
        '{"tokens": "%s"}',
        '{"%s": 1}',
        '"%s"',
        '["%s"]',
        '{"token": "%s" oops',
        "%s",
    ],
)
async def test_a_malformed_revocation_is_told_nothing_of_the_token(
    redis_url: str, service: AuthService, hidden: str, body: str
) -> None:
    headers = {"X-Auth-Token": service.log_in(uuid4().hex, "root", ["#"])}
    app = create_app("http://auth", redis_url, httpx.ASGITransport(service))
    async with running(app) as http:
        for kind in ("application/json", "text/plain"):
            answer = await http.post(
                "/revocations",
                content=body % hidden,
                headers={**headers, "content-type": kind},
            )
            assert answer.status_code == 422
            assert answer.json()["detail"][0]["loc"][0] == "body"
            assert hidden not in answer.text


async def test_without_redis_every_request_is_verified_by_the_service(
    service: AuthService, hidden: str
) -> None:
    with dead_port() as port:
        url = f"redis://127.0.0.1:{port}/0"
        app = create_app("http://auth", url, httpx.ASGITransport(service))
        async with running(app) as http:
            for _ in range(2):
                assert (await statuses(http, hidden, "/users/ada"))[0][0] == 200
    assert service.calls == 2


async def test_over_sockets_no_log_and_no_answer_has_the_token(
    redis_url: str,
    service: AuthService,
    hidden: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with serve(service) as port:
            app = create_app(f"http://127.0.0.1:{port}", redis_url)
            async with (
                app.router.lifespan_context(app),
                serve(app) as own,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}") as http,
            ):
                headers = {"X-Auth-Token": hidden}
                texts = [
                    (await http.get(path, headers=headers)).text
                    for path in ("/users/ada", "/users/grace", "/nowhere")
                ]
                service.revoke(hidden)
                await app.state.auth_client.revoke(hidden)
                texts.append((await http.get("/users/ada", headers=headers)).text)

    assert "ada" in texts[0]
    assert hidden not in caplog.text + "".join(texts)


async def test_openapi_shows_the_scheme_and_what_each_route_requires(
    redis_url: str, service: AuthService
) -> None:
    app = create_app("http://auth", redis_url, httpx.ASGITransport(service))
    document = app.openapi()

    assert document["components"]["securitySchemes"] == {
        "X-Auth-Token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
    }
    required = {
        path: [operation[EXTENSION] for operation in operations.values()]
        for path, operations in document["paths"].items()
    }
    assert required == {
        "/users/{user_id}": [[{"all": ["users.{user_id}.read"]}]],
        "/revocations": [[{"all": ["auth.tokens.delete"]}]],
    }
