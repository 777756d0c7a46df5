"""Images as rows, in any form, and Parquet files of images, read a bounded number of bytes at a time.

Parquet cannot read less than a page, so memory has about two pages of the widest column beyond the rows asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.captions.sources.files import open_file
from rag_clip.display import counted
from rag_clip.errors import CURES, system_error
from rag_clip.files.identity import FileIdentity
from rag_clip.files.locations import Place, parent
from rag_clip.files.parquet_batches import bounded_batches, open_pages, unpacked_bytes
from rag_clip.images.columns import IMAGES, choose
from rag_clip.images.common_types import common_type
from rag_clip.images.items import Item, embedded_image, leaves, locate
from rag_clip.models.decode import ImageError

LOOKED_AT = 100
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
READ_BYTES = 16 << 20
MAX_READ_ROWS = 256
_IMAGE_TYPES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The images of a file, a folder or a table, one per row, with other columns.

    path: the file or folder.
    schema: the columns that are copied to outputs; the column of the images may be missing from it.
    rows: the number of rows.
    row_bytes: the approximate size of the largest rows, in bytes.
    image: the column of the images: bytes, {bytes, path} structs, or names of files.
    root: where relative names start.
    identity: changes with the content of the file.
    batches: called with this file, a start row and columns; yields batches from that row on.
    constants: columns given by the names of folders above the file.
    confined: whether names must lie below `root`.
    """

    path: Place
    schema: pa.Schema
    rows: int
    row_bytes: int
    image: str
    root: Place
    identity: FileIdentity
    batches: Callable[[ImageFile, int, Sequence[str]], Iterator[pa.RecordBatch]]
    constants: Mapping[str, str | None] = field(default_factory=dict)
    confined: bool = True

    @property
    def read_rows(self) -> int:
        """The number of rows to read at once, so that they have at most about `READ_BYTES` on disk."""
        return max(1, min(MAX_READ_ROWS, READ_BYTES // max(1, self.row_bytes)))

    def items(self, column: pa.ChunkedArray) -> list[Item]:
        """Return each image of a column as bytes, as a path, or as an error."""
        return [self._item(value) for value in column.to_pylist()]

    def _item(self, value: Any) -> Item:
        if isinstance(value, dict):
            if value.get("problem"):
                return ImageError(value["problem"])
            content, path = value.get("bytes"), value.get("path")
            value = content if content is not None else path
        return locate(value, self.root, confined=self.confined) if isinstance(value, str) else value


def first_rows(files: Sequence[ImageFile], limit: int | None) -> list[ImageFile]:
    """Return the files with the first `limit` rows of all; None keeps all rows. A shortened file has its own identity.

    Raises ValueError for a limit below 1.
    """
    if limit is None:
        return list(files)
    if limit < 1:
        raise ValueError(f"the limit is {limit} rows; give at least 1")
    kept: list[ImageFile] = []
    for file in files:
        if limit and limit < file.rows:
            file = replace(file, rows=limit, identity=file.identity.first_rows(limit))
        if limit:
            kept.append(file)
            limit -= file.rows
    return kept


def spans(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Divide [start, stop) into ranges of `size`; the last may be shorter."""
    return ((first, min(first + size, stop)) for first in range(start, stop, size))


def read_rows(
    file: ImageFile,
    sizes: Iterable[int],
    *,
    start: int = 0,
    columns: Sequence[str] | None = None,
    most_bytes: int = READ_BYTES,
) -> Iterator[pa.Table]:
    """Yield consecutive tables of a file.

    file: the images.
    sizes: the number of rows of each table.
    start: the first row.
    columns: the columns to read; by default those of the file's schema.
    most_bytes: a table that would be larger is divided into several.

    Raises OSError, naming the file, if it is damaged or was changed.
    """
    batches = file.batches(file, start, list(columns or file.schema.names))
    batch = next(batches, None)
    for size in sizes:
        parts: list[pa.RecordBatch] = []
        filled = 0
        while size:
            if batch is None:
                raise OSError(
                    f"{file.path} has lost some of its {counted(file.rows, 'row')}; leave it unchanged during the run"
                )
            part = batch.slice(0, size)
            part_bytes = unpacked_bytes(part)
            if parts and filled + part_bytes > most_bytes:
                yield pa.Table.from_batches(parts)
                parts, filled = [], 0
            parts.append(part)
            filled += part_bytes
            size -= part.num_rows
            batch = batch.slice(part.num_rows) if part.num_rows < batch.num_rows else next(batches, None)
        yield pa.Table.from_batches(parts)


def read_items(file: ImageFile, sizes: Iterable[int], *, start: int = 0) -> Iterator[list[Item]]:
    """Yield lists of images of the given sizes, from row `start` on; raises as `read_rows` does."""
    return (file.items(table[file.image]) for table in read_rows(file, sizes, start=start, columns=[file.image]))


def open_parquet(path: Place, identity: FileIdentity, *, image_column: str, root: Place | None = None) -> ImageFile:
    """Open a Parquet file of images; `KEY=VALUE` folders directly above it are columns, as Spark and polars write them.

    `image_column` is the column of the images; if it is the default and missing, another usual name is found. Relative
    names start at `root`, by default the file's folder. Raises ValueError if the file is not Parquet, or if no column
    can contain images.
    """
    try:
        with opened(path) as parquet:
            groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
            row_bytes = max((group.total_byte_size // group.num_rows for group in groups if group.num_rows), default=0)
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        reason, wide = " ".join(str(error).split()), _wide_columns(path)
        advice = f"write column {wide[0]!r} in another type" if wide else "give Parquet files of images"
        raise ValueError(f"{path} cannot be read as Parquet ({reason}); {advice}") from error
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{path} names a column twice ({', '.join(schema.names)}); rename one")
    constants = {name: value for name, value in partitions(path).items() if name not in schema.names}
    for name in constants:
        schema = schema.append(pa.field(name, pa.string()))
    image = choose_images(schema, image_column, path)
    file = ImageFile(path, schema, rows, row_bytes, image, root or parent(path), identity, parquet_batches, constants)
    if holds_names(schema.field(image).type) and not isinstance(file.root, str):
        _check_names(_first_values(file, image), str(path), image, file.root)
    return file


def holds_names(kind: pa.DataType) -> bool:
    """Return whether a column of this type contains strings, which may name files."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_names(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_names(kind.value_type)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


@contextmanager
def opened(place: Place, *, int96: str = "ns") -> Iterator[pq.ParquetFile]:
    """Open a local Parquet file, or one at a URL, to be read by parts; `int96` is the unit of INT96 timestamps."""
    if isinstance(place, str):
        with open_file(place) as stream, open_pages(pa.PythonFile(stream, "r"), int96=int96) as parquet:
            yield parquet
    else:
        with open_pages(place, int96=int96) as parquet:
            yield parquet


def _wide_columns(path: Place) -> list[str]:
    """Return the columns of 128-bit integers, because of which Arrow cannot read any column of a file."""
    try:
        return [name for name, kind in pl.read_parquet_schema(path).items() if "Int128" in str(kind)]
    except (pl.exceptions.PolarsError, OSError):
        return []


def partitions(path: Place) -> dict[str, str | None]:
    """Return the columns given by the `KEY=VALUE` folders directly above a file; Hive's name for null is None."""
    columns: dict[str, str | None] = {}
    for folder in PurePosixPath(path if isinstance(path, str) else path.absolute()).parents:
        name, equals, value = folder.name.partition("=")
        if not (name and equals):
            break
        columns = {unquote(name): None if value == HIVE_NULL else unquote(value), **columns}
    return columns


def check_agreement(first: ImageFile, other: ImageFile) -> None:
    """Raise ValueError, naming both files, if their columns differ by more than the width of a type."""
    expected, found = ({field.name: field.type for field in file.schema} for file in (first, other))
    for file, fields in ((first, expected), (other, found)):
        if len(fields) < len(file.schema):
            raise ValueError(f"{file.path} names a column twice ({', '.join(file.schema.names)}); rename one")
    differences = [
        f"{name} is {expected.get(name, 'absent')} in the first and {found.get(name, 'absent')} in the second"
        for name in {**expected, **found}
        if name not in expected or name not in found or common_type(expected[name], found[name]) is None
    ]
    if differences:
        raise ValueError(
            f"{first.path} and {other.path} differ in their columns: {'; '.join(differences)}; "
            "classify them separately, or make their columns the same"
        )


def choose_images(schema: pa.Schema, image_column: str, path: Place) -> str:
    """Return the column of the images under any of its usual names.

    Raises ValueError, naming `path`, if there is none, or if it cannot contain images.
    """
    usable = [field.name for field in schema if _holds_images(field.type)]
    name = choose(schema.names, image_column, ()) or choose(usable, image_column, IMAGES) or image_column
    if name not in schema.names:
        raise ValueError(
            f"{path} has no column {name!r}; its columns are {', '.join(schema.names)}. Give the name of the column "
            "with the images"
        )
    if name not in usable:
        raise ValueError(
            f"column {name!r} of {path} is {schema.field(name).type}; images are binary, "
            "{bytes, path} structs, or strings that name files"
        )
    return name


def _check_names(names: Sequence[str], path: str, column: str, root: Path) -> None:
    """Raise ValueError if none of a column's first values names a file below `root`, before every row is an error."""
    if not names or any(embedded_image(name) is not None or _is_inside(root / name, root) for name in names):
        return
    advice = (
        "URLs are not fetched: get the images with `rag-clip index download`, and give its tars to `rag-clip index "
        "images`"
        if "://" in names[0]
        else "give bytes, {bytes, path} structs, base64 texts, or paths of files in that folder"
    )
    raise ValueError(
        f"column {column!r} of {path} contains strings, and none of the first {len(names)} names a file below '{root}' "
        f"(the first is {names[0][:100]!r}); {advice}"
    )


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.is_file() and not leaves(path, root)
    except (OSError, ValueError):  # a name that is too long, or has a null character
        return False


def _first_values(file: ImageFile, column: str) -> list[str]:
    """Return the first `LOOKED_AT` values that are not null."""
    values: list[str] = []
    for batch in parquet_batches(file, 0, [column]):
        values += [value for value in batch.column(0).to_pylist() if value is not None]
        if len(values) >= LOOKED_AT:
            break
    return values[:LOOKED_AT]


def _holds_images(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_images(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        known = [field for field in fields if field.name in ("bytes", "path")]
        return bool(known) and all(_holds_images(field.type) for field in known)
    return any(test(kind) for test in _IMAGE_TYPES)


def table_batches(table: pa.Table, _file: ImageFile, start: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield batches of a table in memory from row `start` on."""
    yield from table.select(columns).slice(start).to_batches(max_chunksize=MAX_READ_ROWS)


def parquet_batches(
    file: ImageFile, start: int, columns: Sequence[str], *, int96: str = "ns"
) -> Iterator[pa.RecordBatch]:
    """Yield batches from row `start` on; row groups that end before it are not read."""
    names = [name for name in columns if name not in file.constants]
    unused = 0
    try:
        with opened(file.path, int96=int96) as parquet:
            groups, skip = _groups_from(parquet.metadata, start)
            reading = bounded_batches(parquet, groups, names, most_rows=file.read_rows, most_bytes=READ_BYTES)
            for batch in reading:
                if skip < batch.num_rows:
                    yield _with_constants(file, batch.slice(skip), columns)
                skip = max(0, skip - batch.num_rows)
                unused += batch.nbytes
                if unused >= READ_BYTES:  # releasing after every batch would cost more time than reading
                    pa.default_memory_pool().release_unused()
                    unused = 0
    except (pa.ArrowException, OSError) as error:
        reason, system = " ".join(str(error).split()), system_error(error)
        cure = CURES.get(system.errno or 0, "it may be damaged") if system else "it may be damaged"
        raise OSError(f"{file.path} cannot be read any further ({reason}); {cure}") from error


def _with_constants(file: ImageFile, batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    for name in file.constants.keys() & set(columns):
        value = pa.scalar(file.constants[name], pa.string())
        batch = batch.append_column(name, pa.repeat(value, batch.num_rows))
    return batch.select(columns)


def _groups_from(metadata: pq.FileMetaData, start: int) -> tuple[list[int], int]:
    first = 0
    while first < metadata.num_row_groups and start >= metadata.row_group(first).num_rows:
        start -= metadata.row_group(first).num_rows
        first += 1
    return list(range(first, metadata.num_row_groups)), start
