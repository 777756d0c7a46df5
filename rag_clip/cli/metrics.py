"""The file of `--metrics`: a run's progress in Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rag_clip.progress import ProgressEvent

SECONDS = 1.0
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
    """Writes `path` whole, at most once a second and at the end.

    Raises ValueError for another suffix than .prom, and for a file that is not of rag-clip.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".prom":
            raise ValueError(f"the collector reads files of the suffix .prom; rename {path}")
        if path.exists() and not (path.is_file() and path.read_bytes().startswith(OURS.encode())):
            raise ValueError(f"{path} exists and holds no metrics of rag-clip; name another file for --metrics")
        self._path, self._begun, self._last = path, time.time(), 0.0
        self._stages: dict[tuple[str, str], ProgressEvent] = {}
        self._write(None)

    def report(self, event: ProgressEvent) -> None:
        """Take up an event."""
        self._stages[event.stage, event.unit] = event
        if time.monotonic() - self._last >= SECONDS:
            self._write(None)

    def end(self, code: int) -> None:
        """Write the exit code."""
        self._write(code)

    def _write(self, code: int | None) -> None:
        from rag_clip.files.atomic import replacing

        self._last = time.monotonic()
        values: dict[str, list[tuple[str, float]]] = {
            "rag_clip_items_done": [(_labels(event), event.done) for event in self._stages.values()],
            "rag_clip_items_total": [
                (_labels(event), event.total) for event in self._stages.values() if event.total is not None
            ],
            "rag_clip_started_seconds": [("", round(self._begun, 3))],
            "rag_clip_updated_seconds": [("", round(time.time(), 3))],
            "rag_clip_running": [("", int(code is None))],
            "rag_clip_exit_code": [] if code is None else [("", code)],
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
        with replacing(self._path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _labels(event: ProgressEvent) -> str:
    return f'{{stage="{_escaped(event.stage)}",unit="{_escaped(event.unit)}"}}'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
