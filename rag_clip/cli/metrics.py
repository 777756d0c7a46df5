"""`--metrics`: a run's progress in Prometheus' text format, in a file for node_exporter's collector, or on a port."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rag_clip.progress import ProgressEvent

if TYPE_CHECKING:
    from http.server import HTTPServer

SECONDS, POLL_SECONDS = 1.0, 0.05
HOST = "127.0.0.1"
ADDRESS = re.compile(r"(?P<host>[\w.-]*|\[[\da-fA-F:.]+\]):(?P<port>\d{1,5})")
FORMAT = "text/plain; version=0.0.4; charset=utf-8"
OURS = "# HELP rag_clip_items_done "
HELP: Mapping[str, str] = {
    "rag_clip_items_done": "Items of a stage that are done.",
    "rag_clip_items_total": "Items of a stage, where their number is known.",
    "rag_clip_started_seconds": "Unix time at which the run started.",
    "rag_clip_updated_seconds": "Unix time of the last change.",
    "rag_clip_running": "1 while the run goes on, 0 after it.",
    "rag_clip_exit_code": "Exit code of the run, once it has ended.",
}


class Metrics:
    """A run's progress, at a place: FILE.prom, written whole at most once a second and at the end, or [HOST]:PORT.

    A port answers at http://HOST:PORT/metrics, on 127.0.0.1 unless a host is given, until `end`. Raises ValueError for
    other places, for a file that is not of rag-clip, and for a port that cannot be had.
    """

    def __init__(self, place: str) -> None:
        self._begun = self._updated = time.time()
        self._last = 0.0
        self._code: int | None = None
        self._stages: dict[tuple[str, str], ProgressEvent] = {}
        self._path: Path | None = None
        self._server: HTTPServer | None = None
        if address := ADDRESS.fullmatch(place):
            self._server = _serve(address["host"].strip("[]") or HOST, int(address["port"]), self._text)
        else:
            self._path = _check_file(Path(place))
            self._write()

    def report(self, event: ProgressEvent) -> None:
        """Take up an event."""
        self._stages[event.stage, event.unit] = event
        self._updated = time.time()
        if time.monotonic() - self._last >= SECONDS:
            self._write()

    def end(self, code: int) -> None:
        """Write the exit code to the file, or stop serving."""
        self._code, self._updated = code, time.time()
        self._write()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _write(self) -> None:
        if self._path is None:
            return
        from rag_clip.files.atomic import replacing

        self._last = time.monotonic()
        with replacing(self._path) as partial:
            partial.write_text(self._text(), encoding="utf-8")

    def _text(self) -> str:
        stages = list(self._stages.values())  # at once, since a scrape comes from another thread
        values: dict[str, list[tuple[str, float]]] = {
            "rag_clip_items_done": [(_labels(event), event.done) for event in stages],
            "rag_clip_items_total": [(_labels(event), event.total) for event in stages if event.total is not None],
            "rag_clip_started_seconds": [("", round(self._begun, 3))],
            "rag_clip_updated_seconds": [("", round(self._updated, 3))],
            "rag_clip_running": [("", int(self._code is None))],
            "rag_clip_exit_code": [] if self._code is None else [("", self._code)],
        }
        lines = [
            line
            for name, samples in values.items()
            for line in (
                f"# HELP {name} {HELP[name]}",
                f"# TYPE {name} gauge",
                *(f"{name}{labels} {value}" for labels, value in samples),
            )
        ]
        return "\n".join(lines) + "\n"


def _check_file(path: Path) -> Path:
    if path.suffix != ".prom":
        raise ValueError(f"--metrics takes FILE.prom, as the collector reads no other suffix, or :PORT; found {path}")
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(OURS.encode())):
        raise ValueError(f"{path} exists and holds no metrics of rag-clip; name another file for --metrics")
    return path


def _serve(host: str, port: int, text: Callable[[], str]) -> HTTPServer:
    """Answer /metrics on a thread of its own, until the server is shut down or the process ends."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.partition("?")[0] == "/metrics"
            content = (text() if known else "the metrics are at /metrics\n").encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", FORMAT if known else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise ValueError(f"--metrics cannot listen on port {port} of {host} ({error}); choose another") from None
    threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
    return server


def _labels(event: ProgressEvent) -> str:
    return f'{{stage="{_escaped(event.stage)}",unit="{_escaped(event.unit)}"}}'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
