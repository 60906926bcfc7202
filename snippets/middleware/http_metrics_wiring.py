"""Wire metrics into FastAPI: a registry per application, and a page to scrape."""

from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

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
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
