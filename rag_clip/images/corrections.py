"""Which rows of images a person has put right, and what is right: a table with a row for each correction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from rag_clip.data import LabelSet
from rag_clip.display import counted
from rag_clip.files.reading import read_table
from rag_clip.files.regular import is_regular
from rag_clip.images.columns import LABELS, choose
from rag_clip.images.labelled import LABELS_AT_ONCE, class_names, to_labels
from rag_clip.images.rows import ImageFile, read_rows, spans

ROW = "row"
READERS: Mapping[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": partial(pl.read_csv, infer_schema=False),
    ".tsv": partial(pl.read_csv, infer_schema=False, separator="\t"),
    ".jsonl": pl.read_ndjson,
}


def read_corrections(
    table: str | Path | pl.DataFrame,
    files: Sequence[ImageFile],
    labels: LabelSet,
    *,
    key: str | None = None,
    label_column: str = "label",
) -> dict[int, int]:
    """Return the class of each corrected row, over all files, ascending.

    table: a Parquet, CSV, TSV or JSON lines file, or a frame, with the right label of an image in each row.
    files: the images.
    labels: the classes.
    key: the column that says which image it is: `row`, counted from 0 over all files, or a column of the images too,
        whose value occurs once. By default `row`, or else the only column that both have.
    label_column: the column of the right labels; other usual names are found too.

    Raises ValueError for a table without corrections or without these columns, for an image that is not there or is
    meant by several rows, for labels that are none of the classes, and for two labels of one image; FileNotFoundError
    for a missing file.
    """
    place = "the table" if isinstance(table, pl.DataFrame) else str(table)
    frame, names = (table, ()) if isinstance(table, pl.DataFrame) else _read(Path(table), label_column)
    column = choose(frame.columns, label_column, LABELS)
    if column is None:
        raise ValueError(f"{place} has no column {label_column!r} of right labels; it has {', '.join(frame.columns)}")
    if not len(frame):
        raise ValueError(f"{place} has no row; give the image and the right label of each")
    key = key or _key(place, frame, files, column)
    if key not in frame.columns:
        raise ValueError(f"{place} has no column {key!r}; it has {', '.join(frame.columns)}")
    found = to_labels(frame[column].to_list(), names, column)
    if empty := [row for row, each in enumerate(found.rows) if len(each) != 1]:
        raise ValueError(f"{place} has no single label in row {empty[0]}; give one right label to each image")
    classes = [numbers[0] for numbers in found.classes(labels)]
    keys = frame[key].to_list()
    rows = _numbers(place, keys, sum(file.rows for file in files)) if key == ROW else _find(place, key, keys, files)
    right: dict[int, int] = {}
    for row, number in zip(rows, classes, strict=True):
        if right.setdefault(row, number) != number:
            both = f"{labels.names[right[row]]!r} and {labels.names[number]!r}"
            raise ValueError(f"{place} says {both} of the same image (row {row}); leave one")
    return dict(sorted(right.items()))


def _read(path: Path, label_column: str) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return a table, and the names of its classes if its labels are numbers of them."""
    if not is_regular(path):
        raise FileNotFoundError(f"there is no file {path}; give a table of the images and their right labels")
    suffix = path.suffix.lower()
    if suffix != ".parquet" and suffix not in READERS:
        raise ValueError(f"{path} is none of .parquet, {', '.join(READERS)}; convert it to one of them")
    try:
        if suffix != ".parquet":
            return READERS[suffix](path), ()
        table = read_table(path)
        return pl.DataFrame(table), class_names(table.schema, label_column)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {suffix} ({' '.join(str(error).split())[:200]})") from error


def _key(place: str, frame: pl.DataFrame, files: Sequence[ImageFile], label: str) -> str:
    if ROW in frame.columns:
        return ROW
    shared = [name for name in frame.columns if name in files[0].schema.names and name not in (label, files[0].image)]
    shared += [files[0].image] if not shared and frame.schema.get(files[0].image) == pl.String else []
    if len(shared) != 1:
        what = (
            f"several columns that the images have too ({', '.join(shared)})" if shared else "no column of the images"
        )
        raise ValueError(f"{place} has no column {ROW!r}, and {what}; say by `key` which one names the image")
    return shared[0]


def _numbers(place: str, values: Sequence[object], count: int) -> list[int]:
    rows = []
    for value in values:
        try:
            row = int(str(value))
        except ValueError:
            row = -1
        if not 0 <= row < count:
            raise ValueError(f"{place} has the row {value!r}; rows are whole numbers from 0 to {count - 1}")
        rows.append(row)
    return rows


def _find(place: str, key: str, values: Sequence[object], files: Sequence[ImageFile]) -> list[int]:
    """Return the row of each value in the column `key` of the files; values are compared as texts."""
    wanted = {str(value) for value in values}
    rows: defaultdict[str, list[int]] = defaultdict(list)
    before = 0
    for file in files:
        if key not in file.schema.names:
            raise ValueError(f"{file.path} has no column {key!r}; it has {', '.join(file.schema.names)}")
        sizes = [stop - start for start, stop in spans(0, file.rows, LABELS_AT_ONCE)]
        for table in read_rows(file, sizes, columns=[key]):
            for place_in, value in enumerate(table[key].to_pylist(), start=before):
                if str(value) in wanted:
                    rows[str(value)].append(place_in)
            before += len(table)
    for value in values:
        if len(rows[str(value)]) != 1:
            many = f"{counted(len(rows[str(value)]), 'image')} have" if rows[str(value)] else "no image has"
            raise ValueError(f"{place} has the {key} {value!r}, which {many}; name each image by its {ROW}")
    return [rows[str(value)][0] for value in values]
