"""Serving the site while it is written: changed sources are rendered anew at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from catalogue.errors import CatalogueError
from catalogue.render import DATA, render

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = ("docs", "notebooks", "snippets", "tests", "build/verification.json")


def serve(root: Path, port: int) -> int:
    """Render, then serve on loopback until interrupted.

    A port in use is a `CatalogueError`. A source that cannot be rendered while the site
    is being served is reported on stderr, and the site stays as it was.
    """
    require_free(port)
    render(root)
    changes = Changes(root)
    observer = Observer()
    for name in SOURCES:
        if (root / name).exists():
            observer.schedule(changes, str(root / name), recursive=True)
    observer.start()
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "mkdocs", "serve", "--dev-addr", address]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    try:
        with subprocess.Popen(command, cwd=root, env=environment) as server:
            while server.poll() is None:
                changes.render_when_changed()
            return server.returncode
    except KeyboardInterrupt:
        return 0
    finally:
        observer.stop()
        observer.join()


class Changes(FileSystemEventHandler):
    """Notes that a source changed; several changes at once are rendered once."""

    def __init__(self, root: Path) -> None:
        """Render the tree at `root`."""
        self._root = root
        self._changed = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note what was written, other than by rendering."""
        generated = str(self._root / DATA)
        written = event.event_type in {"created", "deleted", "modified", "moved"}
        if written and not str(event.src_path).startswith(generated):
            self._changed.set()

    def render_when_changed(self) -> None:
        """Wait up to half a second for a change, then render what changed."""
        if not self._changed.wait(timeout=0.5):
            return
        self._changed.clear()
        try:
            render(self._root)
        except (CatalogueError, OSError) as error:
            sys.stderr.write(f"{CatalogueError.of(error, self._root)}\n")


def require_free(port: int) -> None:
    """Raise `CatalogueError` if nothing can listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CatalogueError(
                f"port {port} cannot be used ({error}); "
                "stop what listens there or choose another: make serve port=8001"
            ) from error
