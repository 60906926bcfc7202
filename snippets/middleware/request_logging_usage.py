"""Log requests to a telephony service, with and without what they contain."""

import asyncio
import logging

import httpx
from fastapi import FastAPI

from snippets.middleware.request_logging import LogOptions, RequestLoggingMiddleware

records: list[logging.LogRecord] = []


class Keep(logging.Handler):
    """Keeps records where a service would write them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        records.append(record)


def telephony() -> FastAPI:
    """Return a service with extensions and a health check."""
    app = FastAPI()

    @app.get("/health/live")
    async def live() -> str:
        return "well"

    @app.get("/extensions/{number}")
    async def show(number: int) -> dict[str, int]:
        return {"number": number}

    @app.post("/extensions")
    async def create(extension: dict[str, str]) -> str:
        return extension["number"]

    return app


async def main() -> None:
    """Send four requests, and look at what was logged."""
    logger = logging.getLogger("snippets.middleware.request_logging")
    logger.addHandler(handler := Keep())
    logger.setLevel(logging.INFO)

    options = LogOptions(exempt=["/health"], clock=lambda: 0.0)
    async with client_of(RequestLoggingMiddleware(telephony(), options)) as http:
        await http.get("/health/live")
        await http.get("/extensions/1001?token=abc&page=2")
    print(len(records), "record:", records[0].getMessage())
    # > 1 record: GET /extensions/1001 200
    for name, value in vars(records[0])["access"].items():
        print(f"{name}: {value}")
        # > request_id: None
        # > client: 127.0.0.1
        # > method: GET
        # > route: /extensions/{number}
        # > path: /extensions/1001
        # > query: token=***&page=2
        # > status: 200
        # > milliseconds: 0.0
        # > bytes: 15
        # > error: None

    options = LogOptions(content=True, environment="development")
    async with client_of(RequestLoggingMiddleware(telephony(), options)) as http:
        await http.post("/extensions", json={"number": "1002", "sipPassword": "s3"})
        await http.post("/extensions", json={"number": "1" * 11_000})
    for record in records[1:]:
        print(vars(record)["access"]["body"])
        # > {'number': '1002', 'sipPassword': '***'}
        # > <11013 bytes>

    try:
        LogOptions(content=True)
    except ValueError as error:
        print(error)
        # > content is not logged in production
    logger.removeHandler(handler)


def client_of(app: RequestLoggingMiddleware) -> httpx.AsyncClient:
    """Return a client that calls the service in process."""
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://telephony")


if __name__ == "__main__":
    asyncio.run(main())
