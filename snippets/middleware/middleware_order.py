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

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from prometheus_client import CollectorRegistry

from snippets.middleware.body_limit import BodyLimitMiddleware
from snippets.middleware.client_address import Networks, client_network
from snippets.middleware.header_context import (
    ASGIApp,
    CorrelationIDMiddleware,
    RequestIDMiddleware,
)
from snippets.middleware.http_metrics import MetricsMiddleware, route_template
from snippets.middleware.rate_limit import RateLimitMiddleware, paths_below
from snippets.middleware.rate_limiter import RateLimiter
from snippets.middleware.request_logging import LogOptions, RequestLoggingMiddleware
from snippets.middleware.security_headers import HSTS, SecurityHeadersMiddleware

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

LIMITS = "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After"
READABLE = RequestIDMiddleware.header, CorrelationIDMiddleware.header, *LIMITS
"""The headers that scripts of another origin may read."""


class MiddlewareOrderError(RuntimeError):
    """Two layers stand the wrong way round, or one stands twice."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a service has to say about its edge.

    The addresses that are logged and, by network, counted by `limiter` are those that
    `trusted_proxies` forward; if there are any, the scheme is the forwarded one.
    Requests to `unlimited` paths and what is below them are not counted. `tenant` is
    innermost of all, and `net` makes a layer that keeps what it wraps as its `app`.
    """

    allowed_hosts: Collection[str]
    allowed_origins: Collection[str]
    max_body_size: int
    limiter: RateLimiter
    registry: CollectorRegistry
    trusted_proxies: Networks = ()
    tenant: Middleware | None = None
    net: Callable[[FastAPI], ASGIApp] | None = None
    unlimited: Collection[str] = ("/health", "/metrics")
    log: LogOptions = field(default_factory=lambda: LogOptions(route=route_template))
    policies: Mapping[str, str] = field(default_factory=dict)
    hsts: HSTS | None = field(default_factory=HSTS)
    trust_inbound_ids: bool = True


def build_stack(app: FastAPI, stack: Stack) -> ASGIApp:
    """Return `app` with all layers around it; call it once, before the start.

    Raises `MiddlewareOrderError`, and adds nothing, if it has one of them already.
    """
    edge: ASGIApp = stack.net(app) if stack.net is not None else app
    key = partial(client_network, trusted_proxies=stack.trusted_proxies)
    limit = Middleware(
        RateLimitMiddleware, limiter=stack.limiter, key=key, exempt=stack.unlimited
    )
    inside = [one for one in (stack.tenant, limit) if one is not None]
    paths_below(stack.unlimited)
    _check([*ORDER[:-1], *(one.cls for one in reversed(inside)), *_layers(edge)])
    edge = BodyLimitMiddleware(edge, max_body_size=stack.max_body_size)
    edge = CORSMiddleware(
        edge, stack.allowed_origins, ["*"], allow_headers=["*"], expose_headers=READABLE
    )
    edge = TrustedHostMiddleware(edge, list(stack.allowed_hosts), www_redirect=False)
    edge = MetricsMiddleware(edge, registry=stack.registry)
    log = replace(stack.log, trusted_proxies=stack.trusted_proxies)
    edge = RequestLoggingMiddleware(edge, log)
    edge = SecurityHeadersMiddleware(
        edge,
        policies=stack.policies,
        hsts=stack.hsts,
        trust_forwarded_proto=bool(stack.trusted_proxies),
    )
    edge = CorrelationIDMiddleware(edge, trust_inbound=stack.trust_inbound_ids)
    edge = RequestIDMiddleware(edge, trust_inbound=stack.trust_inbound_ids)
    for one in inside:
        app.add_middleware(one.cls, *one.args, **one.kwargs)
    return edge


def check_order(app: ASGIApp) -> None:
    """Raise `MiddlewareOrderError` with both names if two layers are in wrong order.

    It refuses what it cannot look into; of what was added to a FastAPI it sees classes.
    """
    _check(_layers(app))


def _check(layers: Iterable[object]) -> None:
    known: list[tuple[int, str]] = []
    for layer in layers:
        if not isinstance(layer, type):
            raise MiddlewareOrderError(f"what is inside of {layer!r} cannot be seen")
        places = [place for place, one in enumerate(ORDER) if issubclass(layer, one)]
        known += [(place, ORDER[place].__name__) for place in places]
    for (place, outer), (next_place, inner) in pairwise(known):
        if place == next_place:
            raise MiddlewareOrderError(f"{inner} stands inside of another {outer}")
        if place > next_place:
            raise MiddlewareOrderError(f"{outer} must stand inside of {inner}")


def _layers(app: object) -> Iterator[object]:
    while not isinstance(app, FastAPI):
        yield type(app)
        if (inside := getattr(app, "app", None)) is None:
            raise MiddlewareOrderError(f"what is inside of {app!r} cannot be seen")
        app = inside
    yield from (added.cls for added in app.user_middleware)
