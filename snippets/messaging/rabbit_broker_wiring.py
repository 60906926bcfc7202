"""Wire a broker into FastAPI: started with the application, drained with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Request
from faststream.rabbit import RabbitBroker

from snippets.messaging.rabbit_broker import (
    Outgoing,
    PublishError,
    make_broker,
    publish_confirmed,
)


def get_broker(request: Request) -> RabbitBroker:
    """Return the application's broker."""
    broker: RabbitBroker = request.app.state.broker
    return broker


def create_app(rabbitmq_url: str, exchange: str) -> FastAPI:
    """Return an application that takes voicemails, and says so if it cannot."""
    broker = make_broker(rabbitmq_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.broker = broker
        try:
            await broker.start()
            yield
        finally:
            await broker.stop()

    app = FastAPI(lifespan=lifespan)

    @app.put("/voicemails/{voicemail_id}", status_code=202)
    async def leave(
        voicemail_id: UUID,
        request: Request,
        broker: Annotated[RabbitBroker, Depends(get_broker)],
    ) -> None:
        left = Outgoing(
            body=b"{}",
            message_id=str(voicemail_id),
            exchange=exchange,
            routing_key="voicemail.left.acme",
            correlation_id=request.scope.get("state", {}).get("correlation_id"),
        )
        try:
            await publish_confirmed(broker, left, within=2)
        except PublishError as error:
            detail = "voicemails are not taken just now: send it again under this id"
            raise HTTPException(503, detail, {"retry-after": "5"}) from error

    return app
