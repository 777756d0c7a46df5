"""Results on disk: one row per number in long form, and beside it what each run said of each image.

A finished run is a pair of files in OUTPUT.runs, named after what decides its numbers; OUTPUT holds those of the last
call. So a run that is there is not run again, and another setting never finds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from rag_clip.data import LabelSet
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
    """One number of a run; `item` is what it is of (a class, a size of vocabulary), empty for the whole task.

    `low` and `high` bound its 95 % interval, None where it has none.
    """

    metric: str
    item: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval to show: None too for one without width, as of one image per class, which is no certainty."""
        return None if self.low is None or self.high is None or self.low == self.high else (self.low, self.high)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A finished run: the tier of information it used, its settings, the images it was measured on, and its numbers.

    `images` has a row per image and draw of shots (see IMAGES; `row` counts the rows of the task's files, `draw` is 0
    where nothing was drawn), None where only the numbers were kept. `key` names what decides the numbers.
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
        """The classes, in the order that `images` counts them; None without images."""
        return None if self.images is None else labels_from_document(metadata_document(self.images.schema, LABELS))

    @property
    def document(self) -> dict[str, Any]:
        """Its settings and counts as one JSON object, as files keep them."""
        return settings_to_document(self.settings, self.counts)

    @property
    def main(self) -> Measure:
        """The number that runs are ranked by: accuracy, or average precision where images have several labels."""
        return self.measures[0]

    def get(self, metric: str, item: str = "") -> Measure | None:
        """Return one number, None where the run has none of that name."""
        return next((one for one in self.measures if (one.metric, one.item) == (metric, item)), None)

    def series(self, metric: str) -> dict[str, float]:
        """Return a metric's values by item, in their order."""
        return {one.item: one.value for one in self.measures if one.metric == metric and one.item}


def runs_folder(path: Path) -> Path:
    """Return where the runs of a results file lie."""
    return path.with_name(f"{path.name}.runs")


def store_run(path: Path, result: Result) -> None:
    """Keep a finished run for the results file `path`; the numbers are written last, and mean that it is whole."""
    runs = Shards(runs_folder(path), "a run")
    if result.images is not None:
        runs.write(_images_key(result.key), result.images, compression="zstd")
    runs.write(result.key, _with_facts([to_table(result)]), compression="zstd")


def stored_run(path: Path, key: str) -> Result | None:
    """Return a run that was finished before, None where there is none that can be used."""
    runs = Shards(runs_folder(path), "a run")
    try:
        [result] = _results(runs.read(key), runs.path(key), runs)
    except (OSError, ValueError):
        return None
    return result


def to_table(result: Result) -> pa.Table:
    """Return the numbers of a run in long form, a row each."""
    settings = json.dumps(result.document, ensure_ascii=False, default=str)
    same = {"task": result.task, "run": result.run, "tier": result.tier, "settings": settings, "key": result.key}
    columns = {name: [getattr(one, name) for one in result.measures] for name in ("metric", "item", *BOUNDED)}
    columns |= {name: [value] * len(result.measures) for name, value in same.items()}
    return pa.table(columns, schema=SCHEMA)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write what `to_table` made of runs, replacing the file once it is complete."""
    write_sealed(_with_facts(tables), path, compression="zstd")


def read_results(path: str | Path) -> list[Result]:
    """Read a results file, with the images of its runs where their folder lies beside it.

    Raises FileNotFoundError for no file, ValueError for what is not a results file, or one of another format.
    """
    path = Path(path)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no results file {path}; write one with `rag-clip evaluate`")
    try:
        table = read_table(path)  # not verified: a person may edit it
    except ValueError as error:
        raise ValueError(f"{path} {error}: evaluate again") from error
    return _results(table, path, Shards(runs_folder(path), "a run"))


def _with_facts(tables: Iterable[pa.Table]) -> pa.Table:
    """Join what `to_table` made of runs, and note the format."""
    facts = json.dumps({"format": FORMAT, "version": version("rag-clip")})
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).replace_schema_metadata({_KEY: facts})


def _results(table: pa.Table, path: Path, runs: Shards) -> list[Result]:
    """Return the runs in a table that was read from `path`, with their images in `runs`; raises ValueError."""
    facts = _facts(table)
    if facts.get("format") != FORMAT:
        found = f"format {facts['format']} of rag-clip {facts.get('version')}" if facts else "no results of rag-clip"
        raise ValueError(f"{path} holds {found}; this version reads format {FORMAT}: evaluate again")
    try:
        rows = typed_columns(table, _FILLED)
    except ValueError as error:
        raise ValueError(f"{path} {error}; it was changed since it was written: evaluate again") from error
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        groups.setdefault((row["task"], row["run"], row["key"]), []).append(row)
    return [_result(rows, runs) for rows in groups.values()]


def _facts(table: pa.Table) -> dict[str, Any]:
    """Return what a results file says of itself, nothing where it is none."""
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
            f"the run {first['run']!r} begins with {measures[0].metric!r} and is of tier {first['tier']!r}; its rows "
            "were changed since they were written: evaluate again"
        )
    images = _read_images(runs, first["key"])
    settings, counts = _settings(first)
    return Result(first["task"], first["run"], first["tier"], first["key"], settings, counts, measures, images)


def _settings(row: Mapping[str, Any]) -> tuple[RunSettings, ImageCounts]:
    """Return the settings of a run; raises ValueError where they lack what pages and summaries say of it."""
    try:
        return read_settings(parse_json(row["settings"]))
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the settings of the run {row['run']!r} are damaged ({reason}): evaluate again") from error


def _read_images(runs: Shards, key: str) -> pa.Table | None:
    """Return what a run said of each image, None where that was not kept."""
    path = runs.path(_images_key(key))
    if not path.exists():
        return None
    try:
        images = typed_columns(read_sealed(path), pa.schema([field.with_nullable(False) for field in IMAGES]))
        labels = labels_from_document(metadata_document(images.schema, LABELS))
        numbers = [*images["target"].to_pylist(), *images["predicted"].to_pylist()]
        if not 0 <= min(numbers, default=0) <= max(numbers, default=0) < len(labels):
            raise ValueError(f"has classes in [{min(numbers)}, {max(numbers)}] of {len(labels)}")
    except ValueError as error:
        raise ValueError(f"{path} {error}; remove it and evaluate again") from error
    return images


def _images_key(key: str) -> str:
    return f"{key}.images"
