"""The client's address as most services read it."""

from fastapi import Request


def get_client_ip(request: Request) -> str:
    """Return the first address that the proxies forwarded."""
    forwarded = request.headers.get("X-Forwarded-For")
    if forwarded:
        return forwarded.split(",")[0].strip()
    return request.client.host if request.client else "unknown"
