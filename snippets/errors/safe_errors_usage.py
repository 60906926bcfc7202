"""Let a directory fail with its password in the message, and see who is told."""

import asyncio
import logging

import httpx
from fastapi import FastAPI

from snippets.errors.safe_errors import install_safety_net


class Log(logging.Handler):
    """Keeps the exceptions that are logged with their traceback."""

    def __init__(self) -> None:
        """Keep none yet."""
        super().__init__()
        self.errors: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.errors.append(record.exc_info and record.exc_info[1])


async def main() -> None:
    """Compare what the client reads with what the log keeps."""
    app = FastAPI()

    @app.get("/users")
    async def users() -> list[str]:
        raise ConnectionError("ldap://admin:hunter2@directory does not answer")

    log = Log()
    logging.getLogger("snippets.errors.safe_errors").addHandler(log)
    failed: list[str] = []
    net = install_safety_net(
        app,
        environment="production",
        on_error=lambda error, _: failed.append(type(error).__name__),
    )
    transport = httpx.ASGITransport(app=net)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        answer = await client.get("/users")
    print(answer.status_code, answer.json()["title"])
    # > 500 Internal Server Error
    print("the hook was told of", failed)
    # > the hook was told of ['ConnectionError']
    print("the log has", log.errors)
    # > the log has [ConnectionError('ldap://admin:hunter2@directory does not answer')]

    try:
        install_safety_net(FastAPI(debug=True), environment="production")
    except ValueError as error:
        print(error)
        # > debug output in environment 'production'


if __name__ == "__main__":
    asyncio.run(main())
