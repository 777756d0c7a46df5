"""Results on disk: one row per number in long form, and beside it what each run said of each image.

A finished run is a pair of files in OUTPUT.runs, named after what decides its numbers; OUTPUT holds those of the last
call. So a run that is there is not run again, and another setting never finds it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.atomic import replacing
from rag_clip.data import LabelSet
from rag_clip.labels import labels_from_document

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
    """A finished run: the tier of information it used, its settings as plain values, and its numbers.

    `images` has a row per image and draw of shots (see IMAGES; `row` counts the rows of the task's files, `draw` is 0
    where nothing was drawn), None where only the numbers were kept. `key` names what decides the numbers.
    """

    task: str
    run: str
    tier: str
    key: str
    settings: Mapping[str, Any]
    measures: tuple[Measure, ...]
    images: pa.Table | None = None

    @property
    def labels(self) -> LabelSet | None:
        """The classes, in the order that `images` counts them; None without images."""
        return None if self.images is None else labels_from_document(json.loads(self.images.schema.metadata[LABELS]))

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


def prepare_runs(path: Path) -> None:
    """Make the folder of the runs of a results file; raises OSError where nothing can be written, before any work."""
    folder = runs_folder(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it may not be written to")
    except OSError as error:
        raise OSError(error.errno, f"cannot keep runs in {folder} ({error.strerror}); name another output") from error


def store_run(path: Path, result: Result) -> None:
    """Keep a finished run for the results file `path`; the numbers are written last, and mean that it is whole."""
    folder = runs_folder(path)
    try:
        if result.images is not None:
            with replacing(folder / f"{result.key}.images.parquet") as partial:
                pq.write_table(result.images, partial, compression="zstd")
        write_results(folder / f"{result.key}.parquet", [result])
    except OSError as error:
        raise OSError(error.errno, f"cannot keep a run in {folder} ({error}); make room and run again") from error


def stored_run(path: Path, key: str) -> Result | None:
    """Return a run that was finished before, None where there is none that can be used."""
    try:
        found = read_results(runs_folder(path) / f"{key}.parquet", runs=runs_folder(path))
    except (OSError, ValueError):
        return None
    return found[0] if found else None


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write the numbers of runs in long form, replacing the file once it is complete."""
    write_tables(path, map(to_table, results))


def to_table(result: Result) -> pa.Table:
    """Return the numbers of a run in long form, a row each."""
    settings = json.dumps(result.settings, ensure_ascii=False, default=str)
    same = {"task": result.task, "run": result.run, "tier": result.tier, "settings": settings, "key": result.key}
    columns = {name: [getattr(one, name) for one in result.measures] for name in ("metric", "item", *BOUNDED)}
    columns |= {name: [value] * len(result.measures) for name, value in same.items()}
    return pa.table(columns, schema=SCHEMA)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write what `to_table` made of runs, replacing the file once it is complete."""
    whole = pa.concat_tables([SCHEMA.empty_table(), *tables])
    facts = json.dumps({"format": FORMAT, "version": version("rag-clip")})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(whole.replace_schema_metadata({_KEY: facts}), partial, compression="zstd")


def read_results(path: str | Path, *, runs: Path | None = None) -> list[Result]:
    """Read a results file, with the images of its runs where their folder lies beside it.

    Raises FileNotFoundError for no file, ValueError for what is not a results file, or one of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no results file {path}; write one with `rag-clip evaluate`")
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not a readable Parquet file ({error}); evaluate again") from error
    facts = _facts(table)
    if facts.get("format") != FORMAT:
        found = f"format {facts['format']} of rag-clip {facts.get('version')}" if facts else "no results of rag-clip"
        raise ValueError(f"{path} holds {found}; this version reads format {FORMAT}: evaluate again")
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; it was changed since it was written: evaluate again")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["task"], row["run"], row["key"]), []).append(row)
    folder = runs_folder(path) if runs is None else runs
    return [_result(rows, folder) for rows in groups.values()]


def _facts(table: pa.Table) -> dict[str, Any]:
    """Return what a results file says of itself, nothing where it is none."""
    try:
        facts = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) and "format" in facts else {}


def _result(rows: Sequence[Mapping[str, Any]], folder: Path) -> Result:
    first = rows[0]
    measures = tuple(Measure(*(row[name] for name in ("metric", "item", "value", "low", "high"))) for row in rows)
    try:
        images = pq.read_table(folder / f"{first['key']}.images.parquet")
    except FileNotFoundError:
        images = None
    except pa.ArrowException as error:
        raise ValueError(f"{folder / first['key']}.images.parquet is damaged ({error}); remove it") from error
    return Result(
        first["task"], first["run"], first["tier"], first["key"], json.loads(first["settings"]), measures, images
    )
