"""The stack that most services install first, in the order in which it is read."""

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from snippets.middleware.header_context import RequestIDMiddleware, Scope
from snippets.middleware.rate_limit import RateLimitMiddleware
from snippets.middleware.rate_limiter import RateLimiter
from snippets.middleware.security_headers import SecurityHeadersMiddleware


def peer(scope: Scope) -> str:
    """Return who is calling."""
    return str(scope["client"][0])


def add_stack(app: FastAPI, limiter: RateLimiter, origin: str) -> None:
    """Give each request an id first, and limit the rate last."""
    app.add_middleware(RequestIDMiddleware)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(CORSMiddleware, allow_origins=[origin])
    app.add_middleware(RateLimitMiddleware, limiter=limiter, key=peer)
