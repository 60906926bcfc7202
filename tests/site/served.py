"""Serves a built site on loopback as a real host would: compressed and cacheable."""

from __future__ import annotations

import gzip
import mimetypes
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPRESSED = ("text/", "application/javascript", "application/json", "image/svg")


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve `folder` on a free port until the block ends; yield the address."""
    handler = type("Handler", (_Handler,), {"folder": folder.resolve()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        path = self.folder / unquote(urlsplit(self.path).path).removeprefix("/")
        if path.is_dir():
            path /= "index.html"
        status = 200
        if not path.is_file() or not path.resolve().is_relative_to(self.folder):
            status, path = 404, self.folder / "404.html"
        kind = mimetypes.guess_type(path.name)[0] or "text/plain"
        body = path.read_bytes()
        self.send_response(status)
        if kind.startswith(COMPRESSED):
            body = gzip.compress(body, 6, mtime=0)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        with suppress(ConnectionError):  # the browser has left the page
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the browser's tests look at what was asked."""
