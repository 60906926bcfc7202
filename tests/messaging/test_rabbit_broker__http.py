"""A request that publishes is answered by whether RabbitMQ has the message."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue

from snippets.messaging.rabbit_broker_wiring import create_app
from tests.support.rabbitmq import AnyBroker, RealBrokerServer

URL = "/voicemails/0af76519-16cd-43dd-8448-eb211c80319c"


async def put(app: FastAPI) -> httpx.Response:
    """Leave a voicemail."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        return await client.put(URL)


@pytest.mark.backends("rabbitmq")
async def test_a_voicemail_is_taken_when_rabbitmq_has_it_and_refused_otherwise(
    rabbitmq: RealBrokerServer,
) -> None:
    events = RabbitExchange(rabbitmq.name("events"), type=ExchangeType.TOPIC)
    app = create_app(rabbitmq.url, events.name)
    async with app.router.lifespan_context(app):
        broker: RabbitBroker = app.state.broker
        exchange = await broker.declare_exchange(events)
        refused = await put(app)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "guest" not in refused.text

        queue = await broker.declare_queue(RabbitQueue(rabbitmq.name("mailer")))
        await queue.bind(exchange, "voicemail.left.*")
        assert (await put(app)).status_code == 202
        message = await rabbitmq.take(queue.name)
        assert message.message_id == URL.removeprefix("/voicemails/")
    assert not broker.running


@pytest.mark.backends("rabbitmq")
async def test_a_voicemail_that_is_left_three_times_at_once_is_refused_each_time(
    rabbitmq: RealBrokerServer,
) -> None:
    events = RabbitExchange(rabbitmq.name("events"), type=ExchangeType.TOPIC)
    app = create_app(rabbitmq.url, events.name)
    async with app.router.lifespan_context(app):
        await app.state.broker.declare_exchange(events)
        answers = await asyncio.gather(*(put(app) for _ in range(3)))
    assert [one.status_code for one in answers] == [503] * 3


async def test_an_id_that_is_none_is_refused_before_anything_is_published(
    broker_server: AnyBroker,
) -> None:
    app = create_app(broker_server.url, broker_server.name("events"))
    app.state.broker = None
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        assert (await client.put("/voicemails/1")).status_code == 422
