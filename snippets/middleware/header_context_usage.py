"""Follow one call through two services by the id that both write down."""

import asyncio
import logging
from io import StringIO
from itertools import count

import httpx
from fastapi import FastAPI, Request

from snippets.middleware.header_context import (
    CorrelationIDMiddleware,
    HeaderContextFilter,
    RequestIDMiddleware,
    correlation_id,
    forward_correlation_id,
    request_id,
)

logger = logging.getLogger("telephony")
numbers = count(1)
LINE = "request=%(request_id)s correlation=%(correlation_id)s %(message)s"


def next_id() -> str:
    """Return ids that are the same in each run; a service keeps the default."""
    return f"id-{next(numbers)}"


def telephony(billing: httpx.AsyncClient) -> FastAPI:
    """Return the service that callers reach."""
    app = FastAPI()

    @app.post("/calls")
    async def start_call(request: Request) -> dict[str, str]:
        logger.info("call started")
        await billing.post("/charges")
        return {"request_id": request.state.request_id}

    return app


def billing() -> FastAPI:
    """Return the service that the first one calls."""
    app = FastAPI()

    @app.post("/charges")
    async def charge() -> None:
        logger.info("call charged")

    return app


async def main() -> None:
    """Start two calls, and ask with an id that is none."""
    print("outside of a request:", request_id.get(), correlation_id.get())
    # > outside of a request: None None

    inner = RequestIDMiddleware(CorrelationIDMiddleware(billing()), new_id=next_id)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(inner),
        base_url="http://billing",
        event_hooks={"request": [forward_correlation_id]},
    ) as to_billing:
        outer = RequestIDMiddleware(
            CorrelationIDMiddleware(telephony(to_billing), new_id=next_id),
            new_id=next_id,
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(outer), base_url="http://telephony"
        ) as caller:
            log = StringIO()
            handler = logging.StreamHandler(log)
            handler.addFilter(HeaderContextFilter())
            handler.setFormatter(logging.Formatter(LINE))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)

            await caller.post("/calls", headers={"X-Correlation-ID": "order-66"})
            for line in log.getvalue().splitlines():
                print(line)
                # > request=id-1 correlation=order-66 call started
                # > request=id-2 correlation=order-66 call charged

            hostile = {"X-Request-ID": "a" * 5000}
            answer = await caller.post("/calls", headers=hostile)
            print(answer.headers["X-Request-ID"], answer.json())
            # > id-3 {'request_id': 'id-3'}
            print(log.getvalue().splitlines()[-1])
            # > request=id-5 correlation=id-4 call charged
    logger.removeHandler(handler)


if __name__ == "__main__":
    asyncio.run(main())
