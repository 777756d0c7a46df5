"""A web server on loopback that behaves well and badly, for the tests of downloading."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from inputs.pictures import picture


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked[path] += 1
        if path in self.server.images:
            self._answer(200, self.server.images[path])
        elif path == "/text":
            self._answer(200, b"<html>no image</html>", ("Content-Type", "text/html"))
        elif path == "/opted-out":
            self._answer(200, picture("red"), ("X-Robots-Tag", "noai"))
        elif path == "/moved":
            self._answer(302, b"", ("Location", "/red"))
        elif path == "/loop":
            self._answer(302, b"", ("Location", "/loop"))
        elif path == "/to-file":
            self._answer(302, b"", ("Location", "file:///etc/passwd"))
        elif path == "/huge":
            self._answer(200, b"", ("Content-Length", str(1 << 40)))
        elif path == "/endless":
            self._pour()
        elif path.startswith("/drip"):
            self._drip(path.removeprefix("/drip-"))
        elif path == "/round":
            self.server.closing.wait(0.3)
            self._answer(302, b"", ("Location", f"/round?{self.server.asked[path]}"))
        elif path == "/short":
            self._answer(200, picture("red")[:-10], ("Content-Length", str(len(picture("red")))))
        elif path == "/slow":
            self.server.closing.wait()
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, part: str) -> None:
        """Send a status line, headers or a body byte by byte, without end."""
        self.wfile.write({"status": b"HTTP/1.1 2", "headers": b"HTTP/1.1 200 OK\r\n"}.get(part, b""))
        if part == "body":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        piece = b"HTTP/1.1 100 Continue\r\n\r\n" if part == "continue" else b"0"
        try:
            while not self.server.closing.wait(0.05):
                self.wfile.write(piece)
        except OSError:
            return

    def _pour(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.closing.is_set():
                self.wfile.write(bytes(1 << 16))
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        return


class Server(ThreadingHTTPServer):
    """Serves `images` by path, and counts what is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.images: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        return


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
