"""Results on disk: one row per number, in long form, and beside them the prediction of each run for each image.

A finished run is a pair of files in OUTPUT.runs, named after a hash of everything that its numbers depend on; OUTPUT
has the numbers of the last call. So a finished run is not repeated, and a run with other settings never reuses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from rag_clip.data import LabelSet
from rag_clip.display import counted
from rag_clip.evaluation.settings import ImageCounts, RunSettings, read_settings, settings_to_document
from rag_clip.evaluation.task import Metric
from rag_clip.evaluation.tiers import TIERS
from rag_clip.files.labels import labels_from_document
from rag_clip.files.reading import metadata_document, parse_json, read_table, typed_columns
from rag_clip.files.regular import is_regular
from rag_clip.files.sealed import read_sealed, write_sealed
from rag_clip.files.shards import Shards

FORMAT = 2
SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "run": pa.string(),
        "tier": pa.string(),
        "metric": pa.string(),
        "item": pa.string(),
        "value": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "settings": pa.string(),
        "key": pa.string(),
    }
)
IMAGES = pa.schema(
    {
        "row": pa.int64(),
        "target": pa.int32(),
        "predicted": pa.int32(),
        "confidence": pa.float32(),
        "right": pa.bool_(),
        "draw": pa.int32(),
    }
)
BOUNDED = ("value", "low", "high")
_FILLED = pa.schema([field.with_nullable(field.name in ("low", "high")) for field in SCHEMA])
LABELS = b"rag_clip.labels"
_KEY = b"rag_clip.results"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of a run.

    metric: the name of the metric.
    item: what the value belongs to, such as a class or a vocabulary size; '' for the whole task.
    value: the value.
    low, high: the ends of its 95 % interval; None without an interval.
    """

    metric: str
    item: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval to show; None also for a zero-width interval: one image per class proves nothing."""
        return None if self.low is None or self.high is None or self.low == self.high else (self.low, self.high)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A finished run.

    task, run: the names of the task and of the run.
    tier: the information that it used (see tiers).
    key: a hash of everything that the numbers depend on.
    settings: how it was made.
    counts: how many images were measured, and why others could not be.
    measures: its numbers, the main one first.
    images: one row per image and draw of shots, with the columns IMAGES: `row` is the row number in the task's files,
        `draw` is 0 without a draw. None if only the numbers were kept.
    """

    task: str
    run: str
    tier: str
    key: str
    settings: RunSettings
    counts: ImageCounts
    measures: tuple[Measure, ...]
    images: pa.Table | None = None

    @property
    def labels(self) -> LabelSet | None:
        """The classes, in the order of the class numbers in `images`; None without images."""
        return None if self.images is None else labels_from_document(metadata_document(self.images.schema, LABELS))

    @property
    def document(self) -> dict[str, Any]:
        """The settings and counts as one JSON object, the form in files."""
        return settings_to_document(self.settings, self.counts)

    @property
    def main(self) -> Measure:
        """The number that runs are ranked by: the task's metric, such as accuracy."""
        return self.measures[0]

    def get(self, metric: str, item: str = "") -> Measure | None:
        """Return the number of a metric and item; None if the run has no such number."""
        return next((each for each in self.measures if (each.metric, each.item) == (metric, item)), None)

    def series(self, metric: str) -> dict[str, float]:
        """Return a metric's values by item, in their order."""
        return {each.item: each.value for each in self.measures if each.metric == metric and each.item}


def runs_folder(path: Path) -> Path:
    """Return the folder of the runs of a results file."""
    return path.with_name(f"{path.name}.runs")


def store_run(path: Path, result: Result) -> None:
    """Store a finished run for the results file `path`; its numbers are written last, once it is complete."""
    runs = Shards(runs_folder(path), "a run")
    if result.images is not None:
        runs.write(_images_key(result.key), result.images, compression="zstd")
    runs.write(result.key, _with_facts([to_table(result)]), compression="zstd")


def stored_run(path: Path, key: str) -> Result | None:
    """Return the stored run of a key; None if there is none that can be read."""
    runs = Shards(runs_folder(path), "a run")
    try:
        [result] = _results(runs.read(key), runs.path(key), runs)
    except (OSError, ValueError):
        return None
    return result


def to_table(result: Result) -> pa.Table:
    """Return the numbers of a run in long form, one row each."""
    settings = json.dumps(result.document, ensure_ascii=False, default=str)
    same = {"task": result.task, "run": result.run, "tier": result.tier, "settings": settings, "key": result.key}
    columns = {name: [getattr(each, name) for each in result.measures] for name in ("metric", "item", *BOUNDED)}
    columns |= {name: [value] * len(result.measures) for name, value in same.items()}
    return pa.table(columns, schema=SCHEMA)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write the tables of runs (see `to_table`) as one results file, replacing it once it is complete."""
    write_sealed(_with_facts(tables), path, compression="zstd")


def read_results(path: str | Path) -> list[Result]:
    """Read a results file, with the images of its runs if their folder is beside it.

    Raises FileNotFoundError if there is no such file, and ValueError for any other file or another format.
    """
    path = Path(path)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no results file {path}; write one with `rag-clip evaluate`")
    try:
        table = read_table(path)  # its checksum is not verified, because a person may edit the file
    except ValueError as error:
        raise ValueError(f"{path} {error}; evaluate again") from error
    return _results(table, path, Shards(runs_folder(path), "a run"))


def _with_facts(tables: Iterable[pa.Table]) -> pa.Table:
    """Join the tables of runs, and record the format in the metadata."""
    facts = json.dumps({"format": FORMAT, "version": version("rag-clip")})
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).replace_schema_metadata({_KEY: facts})


def _results(table: pa.Table, path: Path, runs: Shards) -> list[Result]:
    """Return the runs of a table that was read from `path`, with their images from `runs`; raises ValueError."""
    facts = _facts(table)
    if facts.get("format") != FORMAT:
        if not facts:
            raise ValueError(f"{path} is not a results file of format {FORMAT}; evaluate again")
        found = f"format {facts['format']} of rag-clip {facts.get('version')}"
        raise ValueError(f"{path} has {found}, and this version reads format {FORMAT}; evaluate again")
    try:
        rows = typed_columns(table, _FILLED)
        _check_bounds(rows)
    except ValueError as error:
        raise ValueError(f"{path} {error}; it was changed after it was written, so evaluate again") from error
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        groups.setdefault((row["task"], row["run"], row["key"]), []).append(row)
    return [_result(rows, runs) for rows in groups.values()]


def _check_bounds(rows: pa.Table) -> None:
    """Raise ValueError for an interval with one end only."""
    one_end = pc.xor(rows["low"].is_null(), rows["high"].is_null())
    if pc.any(one_end).as_py():
        raise ValueError(f"has only one end of the interval in row {one_end.index(True).as_py() + 1}")


def _facts(table: pa.Table) -> dict[str, Any]:
    """Return the facts in the metadata of a results file; {} for any other file."""
    try:
        facts = metadata_document(table.schema, _KEY) or {}
    except ValueError:
        return {}
    return facts if "format" in facts else {}


def _result(rows: Sequence[Mapping[str, Any]], runs: Shards) -> Result:
    first = rows[0]
    measures = tuple(Measure(*(row[name] for name in ("metric", "item", "value", "low", "high"))) for row in rows)
    if measures[0].metric not in get_args(Metric) or not {*first["tier"].split("+")} <= {*TIERS}:
        raise ValueError(
            f"the run {first['run']!r} begins with {measures[0].metric!r} and is of tier {first['tier']!r}, so its "
            "rows were changed after they were written; evaluate again"
        )
    images = _read_images(runs, first["key"])
    settings, counts = _settings(first)
    return Result(first["task"], first["run"], first["tier"], first["key"], settings, counts, measures, images)


def _settings(row: Mapping[str, Any]) -> tuple[RunSettings, ImageCounts]:
    """Return the settings of a run; raises ValueError if they lack values that pages and summaries show."""
    try:
        return read_settings(parse_json(row["settings"]))
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the settings of the run {row['run']!r} are damaged ({reason}); evaluate again") from error


def _read_images(runs: Shards, key: str) -> pa.Table | None:
    """Return the predictions of a run for each image; None if they were not stored."""
    path = runs.path(_images_key(key))
    if not path.exists():
        return None
    try:
        images = typed_columns(read_sealed(path), pa.schema([field.with_nullable(False) for field in IMAGES]))
        labels = labels_from_document(metadata_document(images.schema, LABELS))
        numbers = [*images["target"].to_pylist(), *images["predicted"].to_pylist()]
        if not 0 <= min(numbers, default=0) <= max(numbers, default=0) < len(labels):
            raise ValueError(
                f"has class numbers from {min(numbers)} to {max(numbers)} for {counted(len(labels), 'class')}"
            )
    except ValueError as error:
        raise ValueError(f"{path} {error}; remove it and evaluate again") from error
    return images


def _images_key(key: str) -> str:
    return f"{key}.images"
