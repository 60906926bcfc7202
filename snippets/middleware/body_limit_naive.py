"""A limit for request bodies that asks the header how large they are."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class SizeLimitMiddleware:
    """Refuses requests whose body is larger than allowed."""

    def __init__(self, app: ASGIApp, max_size: int = 10 * 1024 * 1024) -> None:
        """Keep the limit in bytes."""
        self.app = app
        self.max_size = max_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is too large."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            content_length = headers.get(b"content-length")
            if content_length and int(content_length) > self.max_size:
                response = JSONResponse({"detail": "Request too large"}, 413)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
