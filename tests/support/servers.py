"""Where the real servers are, and whether they answer."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import urlsplit

ADDRESSES = {
    "DATABASE_URL": "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:5672/",
}
"""The environment variable of each server and its standard local address."""

PORTS = {"DATABASE_URL": 5432, "REDIS_URL": 6379, "RABBITMQ_URL": 5672}

GREETINGS = {
    # An SSLRequest is the one message that PostgreSQL answers before it knows the user.
    "DATABASE_URL": b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    "REDIS_URL": b"PING\r\n",
    "RABBITMQ_URL": b"AMQP\x00\x00\x09\x01",
}
"""What each server answers without a password."""


def address(variable: str) -> str:
    """Return a server's URL from the environment, or its standard local address."""
    return os.environ.get(variable, ADDRESSES[variable])


def problem(variable: str) -> str | None:
    """Return in one line, without its password, why a server does not answer."""
    url = urlsplit(address(variable))
    place = (url.hostname or "127.0.0.1", url.port or PORTS[variable])
    try:
        with socket.create_connection(place, timeout=5) as connection:
            connection.sendall(GREETINGS[variable])
            if connection.recv(1):
                return None
            reason = "it closed the connection"
    except OSError as error:
        reason = str(error)
    host, port = place
    where = f"{variable}: no answer from {host}:{port} ({reason})"
    return f"{where}; start it or set {variable}"


def main() -> int:
    """Print a line for each server that does not answer; return how many there are."""
    problems = [line for variable in ADDRESSES if (line := problem(variable))]
    for line in problems:
        sys.stderr.write(line + "\n")
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
