"""Nobody reads the broker's password where they should not."""

import logging

import pytest
from faststream import FastStream
from faststream.specification import AsyncAPI
from yarl import URL

from snippets.messaging.rabbit_broker import (
    Outgoing,
    PublishError,
    make_broker,
    publish_confirmed,
)
from tests.support.rabbitmq import AnyBroker, RealBrokerServer, proxy
from tests.support.redis_servers import free_port

CANARY = "canary-4f1c"


def test_neither_the_broker_nor_its_asyncapi_document_shows_the_password() -> None:
    broker = make_broker(f"amqps://ada:{CANARY}@rabbit.example:5671/pbx")

    @broker.subscriber("mailer")
    async def mail(body: str) -> None:
        """Mail a voicemail."""

    app = FastStream(
        broker, specification=AsyncAPI(title="pbx", version="1", schema_version="3.0.0")
    )
    document = str(app.schema.to_specification().to_jsonable())
    assert "rabbit.example" in document
    assert "ada" not in document
    for text in (document, repr(broker), str(broker), repr(broker.config)):
        assert CANARY not in text


@pytest.mark.backends("rabbitmq")
async def test_a_refused_password_is_in_neither_error_nor_log(
    rabbitmq: RealBrokerServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    url = str(URL(rabbitmq.url).with_password(CANARY))
    broker = make_broker(url)
    with pytest.raises(ConnectionError, match="ACCESS_REFUSED") as refused:
        await broker.start()
    await broker.stop()
    printed = "".join(capfd.readouterr())
    for text in (repr(refused.value), str(refused.value), caplog.text, printed):
        assert CANARY not in text


async def test_the_password_for_a_broker_that_is_not_there_is_in_no_error_or_log(
    broker_server: AnyBroker,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert broker_server.names == set()
    caplog.set_level(logging.DEBUG)
    broker = make_broker(f"amqp://ada:{CANARY}@127.0.0.1:{free_port()}/")
    with pytest.raises(ConnectionError) as refused:
        await broker.start()
    await broker.stop()
    printed = "".join(capfd.readouterr())
    for text in (repr(refused.value), str(refused.value), caplog.text, printed):
        assert CANARY not in text


@pytest.mark.backends("rabbitmq")
async def test_the_password_of_a_connection_that_breaks_is_in_no_log(
    rabbitmq: RealBrokerServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    async with proxy(rabbitmq) as (between, url):
        broker = make_broker(url)
        async with rabbitmq.running(broker):
            await between.cut()
            message = Outgoing(body=b"{}", message_id="m1", routing_key="nobody")
            with pytest.raises(PublishError) as failed:
                await publish_confirmed(broker, message, within=0.1)
            await between.open()
    printed = "".join(capfd.readouterr())
    texts = (repr(failed.value), str(failed.value.__cause__), caplog.text, printed)
    assert "aio_pika" in caplog.text
    for text in texts:
        assert f"{URL(url).user}:{URL(url).password}" not in text
