"""Images as rows, whatever they lie in, and Parquet files of them, read a bounded number of bytes at a time.

A page is the least that Parquet can read: memory holds about two pages of the widest column beyond what is asked for.
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
    """Images as rows: those of a file, or of a folder, with the columns of `schema` beside them.

    `image` is the column of the images: bytes, {bytes, path} structs, or names of files. Relative names start at
    `root`, and no name leads out of it where they are `confined`. The column is not in `schema` where it is not to pass
    through. `row_bytes` is about the size of the largest rows. `identity` changes when the file does. `constants` are
    the columns that the names of its folders hold. `batches` reads columns from a row on.
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
        """The most rows to read at once: about `READ_BYTES` on disk in the row group with the largest rows."""
        return max(1, min(MAX_READ_ROWS, READ_BYTES // max(1, self.row_bytes)))

    def items(self, column: pa.ChunkedArray) -> list[Item]:
        """Return each image of a column as bytes or as the place of a file, or else as what is wrong with it."""
        return [self._item(value) for value in column.to_pylist()]

    def _item(self, value: Any) -> Item:
        if isinstance(value, dict):
            if value.get("problem"):
                return ImageError(value["problem"])
            content, path = value.get("bytes"), value.get("path")
            value = content if content is not None else path
        return locate(value, self.root, confined=self.confined) if isinstance(value, str) else value


def first_rows(files: Sequence[ImageFile], limit: int | None) -> list[ImageFile]:
    """Return the files of the first `limit` rows of all, None for every row; a file that is cut has its own identity.

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
    """Cut [start, stop) into pieces of `size`, the last one shorter."""
    return ((first, min(first + size, stop)) for first in range(start, stop, size))


def read_rows(
    file: ImageFile,
    sizes: Iterable[int],
    *,
    start: int = 0,
    columns: Sequence[str] | None = None,
    most_bytes: int = READ_BYTES,
) -> Iterator[pa.Table]:
    """Yield tables of the numbers of rows in `sizes`, one after the other from row `start`; all columns by default.

    Rows that hold more than `most_bytes` come in several tables. Raises OSError naming the file where it is damaged or
    has changed.
    """
    batches = file.batches(file, start, list(columns or file.schema.names))
    held = next(batches, None)
    for size in sizes:
        parts: list[pa.RecordBatch] = []
        filled = 0
        while size:
            if held is None:
                raise OSError(f"{file.path} has lost some of its {file.rows} rows; leave it unchanged during the run")
            part = held.slice(0, size)
            part_bytes = unpacked_bytes(part)
            if parts and filled + part_bytes > most_bytes:
                yield pa.Table.from_batches(parts)
                parts, filled = [], 0
            parts.append(part)
            filled += part_bytes
            size -= part.num_rows
            held = held.slice(part.num_rows) if part.num_rows < held.num_rows else next(batches, None)
        yield pa.Table.from_batches(parts)


def read_items(file: ImageFile, sizes: Iterable[int], *, start: int = 0) -> Iterator[list[Item]]:
    """Yield the images of as many rows as `sizes` says, one after the other from row `start`; as `read_rows`."""
    return (file.items(table[file.image]) for table in read_rows(file, sizes, start=start, columns=[file.image]))


def open_parquet(path: Place, identity: FileIdentity, *, image_column: str, root: Place | None = None) -> ImageFile:
    """Open a Parquet file of images; `KEY=VALUE` folders right above it are columns, as Spark and polars write them.

    Where there is no such column, and it is one that images are often in, another of these is taken. Raises ValueError
    for what is not Parquet and where no column can hold images.
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
    """Return whether a column of this type holds strings, which may name files."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_names(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_names(kind.value_type)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


@contextmanager
def opened(place: Place, *, int96: str = "ns") -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of this machine, or behind a URL, by parts; `int96` is the unit of such timestamps."""
    if isinstance(place, str):
        with open_file(place) as stream, open_pages(pa.PythonFile(stream, "r"), int96=int96) as parquet:
            yield parquet
    else:
        with open_pages(place, int96=int96) as parquet:
            yield parquet


def _wide_columns(path: Place) -> list[str]:
    """Return the columns of integers of 128 bits, for which Arrow reads nothing of a file, and polars does."""
    try:
        return [name for name, kind in pl.read_parquet_schema(path).items() if "Int128" in str(kind)]
    except (pl.exceptions.PolarsError, OSError):
        return []


def partitions(path: Place) -> dict[str, str | None]:
    """Read the columns off the `KEY=VALUE` folders right above a file; Hive's name for null is None."""
    found: dict[str, str | None] = {}
    for folder in PurePosixPath(path if isinstance(path, str) else path.absolute()).parents:
        name, equals, value = folder.name.partition("=")
        if not (name and equals):
            break
        found = {unquote(name): None if value == HIVE_NULL else unquote(value), **found}
    return found


def check_agreement(first: ImageFile, other: ImageFile) -> None:
    """Refuse files whose columns differ in more than the width of a type; raises ValueError naming both and what."""
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
            "classify them one by one, or make their columns the same"
        )


def choose_images(schema: pa.Schema, image_column: str, path: Place) -> str:
    """Return the column of the images, another name that people have for it included.

    Raises ValueError, naming `path`, where there is none, or it cannot hold images.
    """
    usable = [field.name for field in schema if _holds_images(field.type)]
    name = choose(schema.names, image_column, ()) or choose(usable, image_column, IMAGES) or image_column
    if name not in schema.names:
        raise ValueError(
            f"{path} has no column {name!r}; its columns are {', '.join(schema.names)}. Name the one with the images"
        )
    if name not in usable:
        raise ValueError(
            f"column {name!r} of {path} is {schema.field(name).type}; images are binary, "
            "{bytes, path} structs, or strings that name files"
        )
    return name


def _check_names(names: Sequence[str], path: str, column: str, root: Path) -> None:
    """Refuse the first values of a column where none names a file below `root`, before each row fails for itself.

    Raises ValueError saying what to do, for addresses in particular.
    """
    if not names or any(embedded_image(name) is not None or _is_inside(root / name, root) for name in names):
        return
    advice = (
        "nothing is fetched here: `rag-clip index download` does, and its tars go into `rag-clip index images`"
        if "://" in names[0]
        else "give bytes, {bytes, path} structs, base64 texts, or paths of files in that folder"
    )
    raise ValueError(
        f"column {column!r} of {path} holds strings, and none of the first {len(names)} names a file below '{root}' "
        f"(the first is {names[0][:100]!r}); {advice}"
    )


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.is_file() and not leaves(path, root)
    except (OSError, ValueError):  # too long for a name, or a null character
        return False


def _first_values(file: ImageFile, column: str) -> list[str]:
    """Return the first values that are not null, `LOOKED_AT` of them."""
    found: list[str] = []
    for batch in parquet_batches(file, 0, [column]):
        found += [value for value in batch.column(0).to_pylist() if value is not None]
        if len(found) >= LOOKED_AT:
            break
    return found[:LOOKED_AT]


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


def parquet_batches(
    file: ImageFile, start: int, columns: Sequence[str], *, int96: str = "ns"
) -> Iterator[pa.RecordBatch]:
    """Yield batches that begin at row `start`; row groups that end before it are not read."""
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
                if unused >= READ_BYTES:  # to give pages back and to fault them in again costs more than to read them
                    pa.default_memory_pool().release_unused()
                    unused = 0
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{file.path} cannot be read any further ({reason}); it may be damaged") from error


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
