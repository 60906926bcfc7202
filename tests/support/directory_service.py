"""The process of a consumer with a read model, for a test to start and to end."""

import asyncio
import logging
import sys

from prometheus_client import CollectorRegistry, Counter

from snippets.database.async_session import create_engine_and_sessions
from snippets.messaging.inbox_wiring import start_consumer


async def main(database_url: str, rabbitmq_url: str, topic: str, name: str) -> None:
    """Consume until the standard input ends."""
    engine, sessions = create_engine_and_sessions(database_url)
    duplicates = Counter("duplicates", "Known messages", registry=CollectorRegistry())
    broker = await start_consumer(rabbitmq_url, sessions, topic, name, duplicates)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await broker.stop()
    await engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")
    logging.getLogger("snippets").setLevel(logging.INFO)
    asyncio.run(main(*sys.argv[1:]))
