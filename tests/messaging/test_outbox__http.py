"""A request that changes a row has its event published after it was answered."""

import httpx
import pytest
from faststream.rabbit import RabbitQueue
from sqlalchemy.ext.asyncio import AsyncEngine

from snippets.messaging.outbox import OutboxBase
from snippets.messaging.outbox_wiring import Base, create_app
from snippets.messaging.rabbit_broker import make_broker
from tests.support.outbox import events
from tests.support.rabbitmq import RealBrokerServer

HEADERS = {"x-correlation-id": "request-1"}


@pytest.mark.backends("rabbitmq")
async def test_a_change_is_published_and_what_is_refused_is_not(
    engine: AsyncEngine, rabbitmq: RealBrokerServer, database_url: str
) -> None:
    async with engine.begin() as connection:
        for base in (Base, OutboxBase):
            await connection.run_sync(base.metadata.create_all)
    topic, queue = events(rabbitmq.name("events")), rabbitmq.name("directory")
    broker = make_broker(rabbitmq.url)
    async with rabbitmq.running(broker):
        declared = await broker.declare_queue(RabbitQueue(queue))
        await declared.bind(await broker.declare_exchange(topic), "extension.#")
    app = create_app(database_url, rabbitmq.url, topic)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://pbx") as client,
    ):
        for url, to, headers in (
            ("/extensions/1001", "1009", {"x-correlation-id": "a\tb"}),
            ("/extensions/1001", "1009", {"x-correlation-id": "c" * 129}),
            ("/extensions/1001", "1009", {}),
            ("/extensions/x", "1009", HEADERS),
            ("/extensions/1001", "*.#", HEADERS),
        ):
            refused = await client.put(url, json={"to": to}, headers=headers)
            assert refused.status_code == 422
        body = {"to": "1009"}
        changed = await client.put("/extensions/1001", json=body, headers=HEADERS)
        assert changed.status_code == 204
        message = await rabbitmq.take(queue)
    assert (message.routing_key, message.correlation_id) == (
        "extension.forwarded.acme",
        "request-1",
    )
    assert await rabbitmq.depth(queue) == 0
