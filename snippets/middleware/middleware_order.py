"""Install the whole edge of a service around a FastAPI application, in one order.

From the outside in: request id, correlation id, security headers, access log, metrics,
trusted host, CORS, body limit, rate limit, tenant. So each answer has its ids and
security headers and is logged and counted once, also a 413, a 429 and the 500 of an
unhandled exception. All but the refusal of a wrong host have the headers of CORS, so
scripts may read them, and a preflight is answered before anybody is limited.

FastAPI answers an unhandled exception outside of all that `FastAPI.add_middleware`
installs. So all layers but the last two are put around the application: serve what
`build_stack` returns. The last two are added to the application, and what answers for
their exceptions is the `net` directly around it, such as that of `safe_errors`.

The files of all these patterns travel along.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from prometheus_client import CollectorRegistry

from snippets.middleware.body_limit import BodyLimitMiddleware
from snippets.middleware.header_context import (
    CORRELATION_ID_HEADER,
    REQUEST_ID_HEADER,
    ASGIApp,
    CorrelationIDMiddleware,
    RequestIDMiddleware,
    Scope,
)
from snippets.middleware.http_metrics import MetricsMiddleware, route_template
from snippets.middleware.rate_limit import RateLimitMiddleware
from snippets.middleware.rate_limiter import RateLimiter
from snippets.middleware.request_logging import LogOptions, RequestLoggingMiddleware
from snippets.middleware.security_headers import SecurityHeadersMiddleware

ORDER: tuple[type[Any], ...] = (
    RequestIDMiddleware,
    CorrelationIDMiddleware,
    SecurityHeadersMiddleware,
    RequestLoggingMiddleware,
    MetricsMiddleware,
    TrustedHostMiddleware,
    CORSMiddleware,
    BodyLimitMiddleware,
    RateLimitMiddleware,
)
"""What stands outside of what; the tenant's layer, which comes last, is yours."""

READABLE = (
    REQUEST_ID_HEADER,
    CORRELATION_ID_HEADER,
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
)
"""The headers that scripts of another origin may read."""


class MiddlewareOrderError(RuntimeError):
    """Two layers stand the wrong way round, or one stands twice."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a service has to say about its edge.

    `client` names who is counted by `limiter`; requests to `unlimited` paths, and to
    what is below them, are not. `tenant` makes a layer that is inside of all others,
    `net` one that keeps what it wraps as its `app`.
    """

    allowed_hosts: Collection[str]
    allowed_origins: Collection[str]
    max_body_size: int
    limiter: RateLimiter
    client: Callable[[Scope], str]
    registry: CollectorRegistry
    tenant: Callable[[ASGIApp], ASGIApp] | None = None
    net: Callable[[FastAPI], ASGIApp] | None = None
    unlimited: Collection[str] = ("/health", "/metrics")
    log: LogOptions = field(default_factory=lambda: LogOptions(route=route_template))
    policies: Mapping[str, str] = field(default_factory=dict)
    trust_inbound_ids: bool = True


def build_stack(app: FastAPI, stack: Stack) -> ASGIApp:
    """Return `app` with all layers around it; call it once, before the start.

    Raises `MiddlewareOrderError` if the application has one of them already.
    """
    if stack.tenant is not None:
        app.add_middleware(stack.tenant)
    app.add_middleware(
        RateLimitMiddleware,
        limiter=stack.limiter,
        key=stack.client,
        exempt=stack.unlimited,
    )
    edge: ASGIApp = stack.net(app) if stack.net is not None else app
    edge = BodyLimitMiddleware(edge, max_body_size=stack.max_body_size)
    edge = CORSMiddleware(
        edge,
        allow_origins=stack.allowed_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=READABLE,
    )
    edge = TrustedHostMiddleware(edge, list(stack.allowed_hosts), www_redirect=False)
    edge = MetricsMiddleware(edge, registry=stack.registry)
    edge = RequestLoggingMiddleware(edge, stack.log)
    edge = SecurityHeadersMiddleware(edge, policies=stack.policies)
    edge = CorrelationIDMiddleware(edge, trust_inbound=stack.trust_inbound_ids)
    edge = RequestIDMiddleware(edge, trust_inbound=stack.trust_inbound_ids)
    check_order(edge)
    return edge


def check_order(app: ASGIApp) -> None:
    """Raise `MiddlewareOrderError` with both names if two layers are in wrong order.

    What it cannot look into, down to what was added to a FastAPI, it refuses as well.
    """
    known = [
        (place, one.__name__)
        for layer in _layers(app)
        for place, one in enumerate(ORDER)
        if isinstance(layer, type) and issubclass(layer, one)
    ]
    for (place, outer), (next_place, inner) in pairwise(known):
        if place == next_place:
            raise MiddlewareOrderError(f"{inner} stands inside of another {outer}")
        if place > next_place:
            raise MiddlewareOrderError(f"{outer} must stand inside of {inner}")


def _layers(app: object) -> Iterator[object]:
    """Yield the classes of the layers, from the outermost in."""
    while not isinstance(app, FastAPI):
        yield type(app)
        if (inside := getattr(app, "app", None)) is None:
            raise MiddlewareOrderError(f"what is inside of {app!r} cannot be seen")
        app = inside
    yield from (added.cls for added in app.user_middleware)
