"""A server that does not answer fails the run with one clear line, and no secret."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.redis_servers import free_port, real_redis
from tests.support.servers import ADDRESSES, main, problem

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> int:
    """Point every address at a port on which nothing listens."""
    port = free_port()
    for variable in ADDRESSES:
        monkeypatch.setenv(variable, f"scheme://user:hunter2@127.0.0.1:{port}/name")
    return port


@pytest.fixture
def hanging_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point every address at a server that closes each connection at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for variable in ADDRESSES:
            monkeypatch.setenv(variable, f"scheme://127.0.0.1:{port}")

        def hang_up() -> None:
            for _ in ADDRESSES:
                connection, _ = listener.accept()
                connection.recv(64)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("variable", ADDRESSES)
def test_a_stopped_server_is_named_without_its_password(
    stopped: int, variable: str
) -> None:
    line = problem(variable)
    assert line is not None
    assert line.startswith(f"{variable}: no answer from 127.0.0.1:{stopped} (")
    assert line.endswith(f"start it or set {variable}")
    assert "hunter2" not in line


def test_all_stopped_servers_are_named_at_once(
    stopped: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main() == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(ADDRESSES)
    assert all(str(stopped) in line for line in lines)


@pytest.mark.usefixtures("hanging_up")
def test_a_server_that_hangs_up_does_not_count_as_answering() -> None:
    reasons = [problem(variable) for variable in ADDRESSES]
    assert all(reason and "it closed the connection" in reason for reason in reasons)


@pytest.mark.usefixtures("stopped")
async def test_a_test_on_a_stopped_server_fails_and_is_not_skipped() -> None:
    with pytest.raises(ConnectionError, match="start it or set REDIS_URL"):
        async with real_redis():
            pass
