"""Each thing that a stack says of the edge is done."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network
from json import loads
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI, Request
from fastapi.middleware import Middleware
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from snippets.errors.safe_errors import SafetyNet
from snippets.middleware import request_logging
from snippets.middleware.header_context import ASGIApp
from snippets.middleware.http_metrics import route_template
from snippets.middleware.middleware_order import Stack, build_stack
from snippets.middleware.rate_limiter import RateLimiter
from snippets.middleware.request_logging import LogOptions
from snippets.middleware.security_headers import DENY_ALL, HSTS
from tests.support.asgi import Exchange, Receive, Scope, Send

ORIGIN = "https://desk.example"
PROXY = "10.0.0.2"
STS, CSP = "Strict-Transport-Security", "Content-Security-Policy"


class TenantMiddleware:
    """Says for whom all requests are."""

    def __init__(self, app: ASGIApp, name: str, *, suffix: str) -> None:
        """Wrap an application."""
        self.app, self.tenant = app, f"{name}-{suffix}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the tenant."""
        scope.setdefault("state", {})["tenant"] = self.tenant
        await self.app(scope, receive, send)


@pytest.fixture
def stack(redis: Redis) -> Stack:
    """The least that can be said."""
    return Stack(
        allowed_hosts=["test"],
        allowed_origins=[ORIGIN],
        max_body_size=100,
        limiter=RateLimiter(
            name=uuid4().hex,
            limit=5,
            window=3600,
            client=lambda: redis,
            on_outage="closed",
        ),
        registry=CollectorRegistry(),
    )


def built(stack: Stack) -> ASGIApp:
    """Return a service behind a stack."""
    app = FastAPI()

    @app.post("/calls/{call_id}")
    async def start(call_id: int, request: Request) -> dict[str, object]:
        tenant = getattr(request.state, "tenant", None)
        size = len(await request.body())
        return {"price": 60 / call_id, "tenant": tenant, "size": size}

    return build_stack(app, stack)


async def call(
    app: ASGIApp,
    path: str = "/calls/7",
    headers: Iterable[tuple[str, str]] = (),
    body: Iterable[bytes] = (),
    **scope: object,
) -> Exchange:
    """Start a call."""
    return await Exchange("POST", path, headers, body, **scope).run(app)


async def test_allowed_hosts_are_answered_and_no_other_is_redirected(
    stack: Stack,
) -> None:
    app = built(replace(stack, allowed_hosts=["www.test", "*.example"]))
    seen = {}
    for host in ("www.test", "a.example", "test", "other"):
        exchange = Exchange("POST", "/calls/7")
        exchange.scope["headers"] = [(b"host", host.encode())]
        seen[host] = (await exchange.run(app)).status

    # Starlette would redirect the third to www.test, host and all as it was sent.
    assert seen == {"www.test": 200, "a.example": 200, "test": 400, "other": 400}


async def test_allowed_origins_may_read_and_send_any_header_by_any_method(
    stack: Stack,
) -> None:
    app = built(stack)
    seen = {}
    for origin in (ORIGIN, "https://other"):
        ask = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "DELETE"),
            ("Access-Control-Request-Headers", "X-Request-ID, Authorization"),
        ]
        preflight = Exchange("OPTIONS", "/calls/7", ask)
        answer = await call(app, headers=ask[:1])
        allowed = answer.values("Access-Control-Allow-Origin")
        seen[origin] = (await preflight.run(app)).status, allowed

    assert seen == {ORIGIN: (200, [ORIGIN]), "https://other": (400, [])}
    [names] = (await call(app, headers=[("Origin", ORIGIN)])).values(
        "Access-Control-Expose-Headers"
    )
    assert set(names.split(", ")) == {
        "X-Request-ID",
        "X-Correlation-ID",
        "RateLimit-Limit",
        "RateLimit-Remaining",
        "RateLimit-Reset",
        "Retry-After",
    }


@pytest.mark.parametrize(("size", "status"), [(20, 200), (21, 413)])
async def test_max_body_size_is_the_limit(size: int, status: int, stack: Stack) -> None:
    answer = await call(built(replace(stack, max_body_size=20)), body=[b"a" * size])

    assert answer.status == status


async def test_the_limiter_counts_all_but_what_is_unlimited(stack: Stack) -> None:
    unlimited_calls = replace(
        stack, unlimited=["/calls/7"], registry=CollectorRegistry()
    )
    app = built(unlimited_calls)
    unlimited = [(await call(app)).status for _ in range(9)]
    limited = [(await call(app, path="/calls/8")).status for _ in range(6)]
    by_default = built(stack)
    default = [(await call(by_default, path="/health")).status for _ in range(6)]

    assert unlimited == [200] * 9
    assert limited == [200] * 5 + [429]
    assert default == [404] * 6


async def test_the_registry_has_the_metrics(stack: Stack) -> None:
    registry = CollectorRegistry()
    await call(built(replace(stack, registry=registry)))

    labels = {"method": "POST", "route": "/calls/{call_id}", "status": "200"}
    assert registry.get_sample_value("http_requests_total", labels) == 1
    assert not list(stack.registry.collect())


async def test_the_tenant_s_layer_is_given_its_options(stack: Stack) -> None:
    tenant = Middleware(TenantMiddleware, "acme", suffix="eu")
    answer = await call(built(replace(stack, tenant=tenant)))

    assert loads(answer.body)["tenant"] == "acme-eu"


async def test_the_net_answers_for_what_is_inside_of_it(stack: Stack) -> None:
    answer = await call(built(replace(stack, net=SafetyNet)), path="/calls/0")

    assert answer.status == 500
    assert answer.values("Content-Type") == ["application/problem+json"]


async def test_policies_are_those_of_the_paths(stack: Stack) -> None:
    app = built(replace(stack, policies={"/calls": "default-src 'self'"}))

    assert (await call(app)).values(CSP) == ["default-src 'self'"]
    assert (await call(app, path="/")).values(CSP) == [DENY_ALL]


@pytest.mark.parametrize(
    ("hsts", "sent"),
    [(HSTS(60, include_subdomains=False), ["max-age=60"]), (None, [])],
)
async def test_hsts_is_what_https_is_answered_with(
    hsts: HSTS | None, sent: list[str], stack: Stack
) -> None:
    app = built(replace(stack, hsts=hsts))

    assert (await call(app, scheme="https")).values(STS) == sent
    assert (await call(app, scheme="http")).values(STS) == []


@pytest.mark.parametrize("trusts", [True, False])
async def test_trust_in_inbound_ids_is_for_both_ids(
    *, trusts: bool, stack: Stack
) -> None:
    names = "X-Request-ID", "X-Correlation-ID"
    app = built(replace(stack, trust_inbound_ids=trusts))
    answer = await call(app, headers=[(name, "mine") for name in names])

    for name in names:
        assert (answer.values(name) == ["mine"]) is trusts


def accesses(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return what was logged of requests."""
    name = request_logging.__name__
    return [vars(one)["access"] for one in caplog.records if one.name == name]


async def test_the_log_has_its_own_options(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = LogOptions(exempt=["/quiet"], content=True, environment="test")
    app = built(replace(stack, log=log))
    await call(app, path="/quiet")
    await call(app, headers=[("X-Name", "Ada")])

    [access] = accesses(caplog)
    assert access["headers"]["x-name"] == "Ada"
    assert stack.log.route is route_template


@pytest.mark.parametrize("peer", [PROXY, "198.51.100.66"])
async def test_log_key_and_scheme_believe_the_same_proxies(
    peer: str, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    elsewhere = LogOptions(trusted_proxies=[ip_network("0.0.0.0/0")])
    proxies = [ip_network("10.0.0.0/24")]
    app = built(replace(stack, log=elsewhere, trusted_proxies=proxies))
    answers = []
    for number in range(6):
        headers = [
            ("X-Forwarded-For", f"192.0.2.{number}"),
            ("X-Forwarded-Proto", "https"),
        ]
        answers.append(await call(app, headers=headers, client=(peer, 4000)))

    is_proxy = peer == PROXY
    assert answers[5].status == (200 if is_proxy else 429)
    clients = [access["client"] for access in accesses(caplog)]
    assert clients == (
        [f"192.0.2.{number}" for number in range(6)] if is_proxy else [peer] * 6
    )
    assert answers[0].values(STS) == ["max-age=31536000; includeSubDomains"]


async def test_without_proxies_nothing_that_is_forwarded_is_believed(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    forged = [("X-Forwarded-For", "192.0.2.9"), ("X-Forwarded-Proto", "https")]
    answer = await call(built(stack), headers=forged, client=(PROXY, 4000))

    assert answer.values(STS) == []
    assert [access["client"] for access in accesses(caplog)] == [PROXY]
