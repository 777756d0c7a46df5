"""Images in files of their own: lists of file names (CSV, TSV, JSON lines), and folders of images.

The rows of a list are written to a temporary file that is mapped into memory, so that memory does not grow with their
number; the file disappears with the process.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from rag_clip.captions.sources.cells import csv_cells, tsv_cells
from rag_clip.captions.sources.files import open_file
from rag_clip.captions.sources.formats import OVERSIZED, parse_json, read_lines, row_schema
from rag_clip.display import counted
from rag_clip.files.identity import FileIdentity
from rag_clip.files.locations import Place, below, is_remote, parent, shown
from rag_clip.images.columns import IMAGES, LABELS, choose
from rag_clip.images.items import Item
from rag_clip.images.rows import ImageFile, read_items, table_batches

ENDINGS = (*("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm", "heic", "heif"),)
LISTS = (".csv", ".tsv", ".jsonl")
METADATA = ("metadata.jsonl", "metadata.csv")
SNIFFED_ROWS = 100
ROWS_GATHERED = 1024
LONGEST_ROW = 64 << 20
IMAGE = pa.struct([("path", pa.string()), ("problem", pa.string())])

Record = dict[str, Any] | str


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return name.rpartition(".")[2].lower() in ENDINGS


def open_list(place: Place, identity: FileIdentity, *, image_column: str, root: Place | None) -> ImageFile:
    """Open a CSV, TSV or JSON lines file with the name or the base64 of one image per row.

    The images are in `image_column` or, if it is missing, in a column with a usual name such as path, file or
    file_name; all columns are copied to outputs. Relative names start at `root`, by default the list's folder. They may
    lie outside it, because a person wrote the list. A row that cannot be read becomes an image with an error. Raises
    ValueError for a file without such a column.
    """
    schema, records = _read_list(place)
    column = choose(schema.names, image_column, IMAGES)
    if column is None:
        raise ValueError(f"{place} has no column {image_column!r}; its columns are {', '.join(schema.names)}")
    named = ((record, record if isinstance(record, str) else record.get(column)) for record in records)
    table = _spill(schema, named)
    file = _listed(place, table, root=root or parent(place), identity=identity, confined=False)
    check_some(file, column)
    return file


def open_metadata(folder: Place, names: Sequence[str], identity: FileIdentity) -> ImageFile:
    """Open the images that metadata files list, by names relative to each metadata file; `names` are those files."""
    parts = [(name, *_read_list(below(folder, name))) for name in names]
    schema = pa.unify_schemas([schema for _, schema, _ in parts], promote_options="permissive")
    column = "file_name" if "file_name" in schema.names else choose(schema.names, IMAGES[0], IMAGES)
    if column is None:
        raise ValueError(f"{below(folder, names[0])} has no column 'file_name'; it has {', '.join(schema.names)}")

    def named() -> Iterator[tuple[Record, str | None]]:
        for name, _, records in parts:
            inside = PurePosixPath(name).parent
            for record in records:
                file = record if isinstance(record, str) else record.get(column)
                yield record, str(inside / file) if isinstance(record, dict) and isinstance(file, str) else file

    return _listed(folder, _spill(schema, named()), root=folder, identity=identity)


def open_folder(folder: Place, files: Iterable[tuple[str, str]]) -> ImageFile:
    """Open the images of a folder, given as (path in it, state), with the columns `path` and `label`.

    The label is the name of the folder directly above an image; without sub-folders there is no such column.
    """
    digest = hashlib.sha256()
    labelled = False

    def named() -> Iterator[tuple[Record, str]]:
        nonlocal labelled
        for path, state in files:
            digest.update(f"{path}\n{state}\n".encode("utf-8", "surrogateescape"))
            label = unquote(PurePosixPath(path).parent.name.removeprefix("label=")) or None
            labelled = labelled or label is not None
            yield {"path": path, "label": label}, path

    table = _spill(pa.schema([("path", pa.string()), ("label", pa.string())]), named())
    table = table if labelled else table.drop_columns("label")
    place = shown(folder) if isinstance(folder, str) else str(folder.resolve())
    return _listed(folder, table, root=folder, identity=FileIdentity(place, (digest.hexdigest(),)))


def walk(folder: Path) -> Iterator[str]:
    """Yield the sorted relative paths of files in a folder, without names that begin with a dot or an underscore."""
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        inside = Path(directory).relative_to(folder)
        yield from (str(inside / name) for name in sorted(names) if not name.startswith((".", "_")))


def mapped_table(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Write batches to a temporary file, and return them as a table mapped into memory; the name is removed at once."""
    with tempfile.NamedTemporaryFile(prefix="rag-clip-") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        return pa.ipc.open_file(pa.memory_map(file.name)).read_all()


def check_some(file: ImageFile, column: str) -> None:
    """Raise ValueError if none of the first rows names an existing file, before every row becomes an error."""
    first = next(read_items(file, [min(file.rows, SNIFFED_ROWS)]))
    if isinstance(file.root, Path) and not any(isinstance(item, bytes) or _is_there(item) for item in first):
        example = next((str(item) for item in first if item is not None), "null")
        raise ValueError(
            f"column {column!r} of {file.path} names no existing file in its first {counted(len(first), 'row')} (the "
            f"first is {example[:100]!r}); relative names start at '{file.root}'"
        )


def _is_there(item: Item) -> bool:
    try:
        return isinstance(item, str) and (is_remote(item) or Path(item).is_file())
    except (OSError, ValueError):  # a name that is too long, or has a null character
        return False


def _listed(place: Place, table: pa.Table, *, root: Place, identity: FileIdentity, confined: bool = True) -> ImageFile:
    *_, image = table.column_names
    schema = table.drop_columns(image).schema
    row_bytes = max((batch.nbytes // batch.num_rows for batch in table.to_batches() if batch.num_rows), default=0)
    batches = partial(table_batches, table)
    return ImageFile(place, schema, len(table), row_bytes, image, root, identity, batches, confined=confined)


def _spill(schema: pa.Schema, named: Iterator[tuple[Record, Any]]) -> pa.Table:
    """Return the records as a table whose last column has the names of the images."""
    image = next(name for name in ("image file", *map(str, range(len(schema) + 1))) if name not in schema.names)
    whole = schema.append(pa.field(image, IMAGE))

    def batches() -> Iterator[pa.RecordBatch]:
        while gathered := list(islice(named, ROWS_GATHERED)):
            yield from _to_table(gathered, whole).to_batches()

    return mapped_table(whole, batches())


def _to_table(named: Sequence[tuple[Record, Any]], schema: pa.Schema) -> pa.Table:
    image = schema.names[-1]
    rows = []
    for record, name in named:
        problem = record if isinstance(record, str) else None
        if problem is None and not isinstance(name, str):
            problem = "the image is null" if name is None else f"the image is {name!r:.80}, not the name of a file"
        values = record if isinstance(record, dict) else {}
        rows.append({**values, image: {"path": None if problem else name, "problem": problem}})
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        if len(named) > 1:
            return pa.concat_tables([_to_table([each], schema) for each in named])
        return _to_table([("a value of the row has another type than in the first rows", None)], schema)


def _read_list(place: Place) -> tuple[pa.Schema, Iterator[Record]]:
    """Return the columns of a list and its records."""
    suffix = PurePosixPath(str(place)).suffix.lower()
    records = _json_records(place) if suffix == ".jsonl" else _csv_records(place, tabs=suffix == ".tsv")
    first = list(islice(records, SNIFFED_ROWS))
    if not any(isinstance(record, dict) for record in first):
        raise ValueError(f"{place} has no row that names an image; give a header and one row per image")
    if suffix != ".jsonl":
        names = dict.fromkeys(name for record in first if isinstance(record, dict) for name in record)
        return pa.schema([(name, pa.string()) for name in names]), chain(first, records)
    return row_schema(first), chain(first, records)


def _json_records(place: Place) -> Iterator[Record]:
    with open_file(str(place)) as stream:
        for line in read_lines(stream, longest=LONGEST_ROW):
            if line is None or line.strip():
                parsed = "oversized" if line is None else parse_json(line)
                yield parsed if isinstance(parsed, dict) else f"the row is {parsed}; give one JSON object per line"


def _csv_records(place: Place, *, tabs: bool) -> Iterator[Record]:
    with open_file(str(place)) as stream, _long_cells():
        rows = (tsv_cells if tabs else csv_cells)(read_lines(stream, longest=LONGEST_ROW))
        first = _stripped(next((row for row in rows if isinstance(row, list)), []))
        names = _header(first)
        if len(set(names)) < len(names):
            raise ValueError(f"{place} names a column twice ({', '.join(names)}); rename one")
        for row in rows if names == first else chain([first], rows):
            if row == OVERSIZED:
                yield f"the row is longer than {LONGEST_ROW >> 20} MiB"
            elif isinstance(row, str) or len(row) != len(names):
                columns = counted(len(names), "cell")
                yield f"the row does not split into {columns}; quote cells that contain the delimiter, and close quotes"
            else:
                yield {name: cell or None for name, cell in zip(names, _stripped(row), strict=True)}


def _stripped(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _header(cells: list[str]) -> list[str]:
    """Return the column names: the first row, unless one of its cells names an image; then path, label and so on."""
    known = {*IMAGES, *LABELS}
    if known & {cell.lower() for cell in cells} or not any(map(is_image, cells)):
        return cells
    if len(cells) == 2:
        return ["path", "label"] if is_image(cells[0]) else ["label", "path"]
    return [
        "path" if is_image(cell) and not any(map(is_image, cells[:place])) else f"column_{place + 1}"
        for place, cell in enumerate(cells)
    ]


@contextmanager
def _long_cells() -> Iterator[None]:
    """Raise csv's limit on the size of a cell, so that a cell can contain the base64 of an image."""
    limit = csv.field_size_limit(LONGEST_ROW)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
