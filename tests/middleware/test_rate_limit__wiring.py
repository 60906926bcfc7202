"""Clients and tenants are limited as wired, also while Redis is away."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from snippets.middleware import rate_limit_wiring, rate_limiter
from tests.support.asgi import Exchange
from tests.support.redis_servers import NOWHERE, FakeRedisServer, RedisServer
from tests.support.servers import address


@pytest.fixture
def redis_url(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a Redis that answers."""
    if isinstance(redis_server, FakeRedisServer):
        # Not by TCP, where fakeredis 2.40 does not say that it lacks a script.
        client = redis_server.client()
        monkeypatch.setattr(rate_limit_wiring, "create_redis", lambda _: client)
        return "redis://embedded"
    return address("REDIS_URL")


@asynccontextmanager
async def running(
    url: str, registry: CollectorRegistry | None = None
) -> AsyncIterator[FastAPI]:
    """Start the application, whose tenants may start ten calls in an hour."""
    app = rate_limit_wiring.create_app(
        url,
        trusted_proxies=(),
        registry=registry or CollectorRegistry(),
        calls_window=3600,
    )
    async with app.router.lifespan_context(app):
        yield app


async def post(app: FastAPI, tenant: str) -> Exchange:
    """Start a conference, as a client whom no other test knows."""
    headers = [("X-Tenant", tenant), ("Content-Type", "application/json")]
    digits = uuid4().hex
    client = f"2001:db8:{digits[:4]}:{digits[4:8]}::1", 4000
    exchange = Exchange("POST", "/conferences", headers, [b'["1001"]'], client=client)
    return await exchange.run(app)


async def test_each_tenant_has_its_own_limit(redis_url: str) -> None:
    acme, globex = uuid4().hex, uuid4().hex
    async with running(redis_url) as app:
        answers = [await post(app, acme) for _ in range(3)]
        other = await post(app, globex)

    assert [one.status for one in answers] == [200, 200, 429]
    assert other.status == 200
    assert other.values("ratelimit-remaining") == ["5"]
    assert answers[2].values("content-type") == ["application/problem+json"]
    [retry_after] = answers[2].values("retry-after")
    assert 0 < int(retry_after) <= 3600
    assert answers[2].values("ratelimit-limit") == ["10"]
    assert json.loads(answers[2].body)["instance"] == "/conferences"


async def test_without_redis_requests_pass_and_conferences_do_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = CollectorRegistry()
    async with running(NOWHERE, registry) as app:
        before = await Exchange("GET", "/health").run(app)
        missing = await Exchange("GET", "/nowhere").run(app)
        refused = await post(app, "acme")
        after = await Exchange("GET", "/health").run(app)

    assert missing.status == 404
    assert not missing.values("ratelimit-limit")
    assert refused.status == 503
    assert refused.values("content-type") == ["application/problem+json"]
    assert json.loads(refused.body)["detail"] == "requests cannot be counted now"
    assert not refused.values("ratelimit-limit")
    uncounted = {
        limiter: registry.get_sample_value(
            "rate_limit_uncounted_total", {"limiter": limiter}
        )
        for limiter in ("telephony-requests", "telephony-calls")
    }
    assert uncounted == {"telephony-requests": 2, "telephony-calls": 1}
    logged = [one for one in caplog.records if one.name == rate_limiter.__name__]
    assert len(logged) == 2
    assert (before.body, after.body) == (b'{"counting":true}', b'{"counting":false}')
