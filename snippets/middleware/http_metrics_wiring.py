"""Wire metrics into FastAPI: a registry per application, and a page to scrape."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from snippets.middleware.http_metrics import MetricsMiddleware

extensions = APIRouter(prefix="/extensions")


@extensions.get("/{number}")
async def show(number: str) -> dict[str, str]:
    """Say who answers at a number."""
    return {"number": number, "user": "Ada"}


def create_app() -> FastAPI:
    """Return an application that counts its requests."""
    app = FastAPI()
    app.include_router(extensions, prefix="/v1")
    registry = CollectorRegistry()
    app.add_middleware(MetricsMiddleware, registry=registry)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(accept: Annotated[str, Header()] = "") -> Response:
        encode, media_type = choose_encoder(accept)
        return Response(encode(registry), media_type=media_type)

    return app
