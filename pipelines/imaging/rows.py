"""Read Parquet files of images, a bounded number of bytes at a time, whatever the size of a file or its row groups.

A page is the least that Parquet can read: memory holds about two pages of the widest column beyond what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.decode import ImageError

from .named_files import check_names, holds_names, leaves

LOOKED_AT = 100
READ_BYTES = 16 << 20
MAX_READ_ROWS = 256
STREAM_BUFFER = 1 << 20
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
    """A Parquet file with a column of images: bytes, {bytes, path} structs, or paths of files below a folder."""

    path: Path
    schema: pa.Schema
    rows: int
    row_bytes: int

    @property
    def read_rows(self) -> int:
        """Rows that make up about `READ_BYTES` in the row group with the largest rows."""
        return max(1, min(MAX_READ_ROWS, READ_BYTES // max(1, self.row_bytes)))


def open_image_files(
    paths: Sequence[str | Path], *, image_column: str, root: str | Path | None = None
) -> list[ImageFile]:
    """Check that the files, or those in folders, are Parquet, hold `image_column`, and agree in their columns.

    Columns may come in another order; the first file's order counts. Where the images are strings, some of the first
    must name files below `root`, by default the folder of their Parquet file. Raises FileNotFoundError for a missing
    file, and ValueError for everything else that is wrong with the files, naming them.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    if not paths:
        raise ValueError("no image files were given; give at least one Parquet file")
    files = [_open(file) for path in paths for file in _in_folder(Path(path))]
    for file in files:
        _check_agreement(files[0], file)
    _check_column(files[0], image_column)
    for file in files:
        if holds_names(file.schema.field(image_column).type):
            check_names(_first_values(file, image_column), file.path, image_column, Path(root or file.path.parent))
    return files


def _in_folder(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.parquet"))
    if not found:
        raise ValueError(f"the folder {path} holds no .parquet file; give a folder or files of images")
    return found


def read_rows(
    file: ImageFile, sizes: Iterable[int], *, start: int = 0, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield tables of the numbers of rows in `sizes`, one after the other from row `start`; all columns by default.

    Raises OSError naming the file where it is damaged or has changed.
    """
    batches = _batches(file, start, columns)
    held = next(batches, None)
    for size in sizes:
        parts = []
        while size:
            if held is None:
                raise OSError(f"{file.path} has lost some of its {file.rows} rows; leave it unchanged during the run")
            part = held.slice(0, size)
            parts.append(part)
            size -= part.num_rows
            held = held.slice(part.num_rows) if part.num_rows < held.num_rows else next(batches, None)
        yield pa.Table.from_batches(parts)


def image_items(column: pa.ChunkedArray, folder: Path) -> list[bytes | str | None]:
    """Return each row's image as bytes, as the path of a file, or None where the row holds neither.

    Relative paths start at `folder`; absolute paths and `..` are followed as they stand.
    """
    return [_item(value, folder) for value in column.to_pylist()]


def inner_items(column: pa.ChunkedArray, root: Path) -> list[bytes | str | ImageError | None]:
    """Do as `image_items`, with an ImageError for each path that leaves `root`, links followed."""
    return [
        ImageError(f"the image {item!r} lies outside '{root}'; it is not read")
        if isinstance(item, str) and leaves(item, root)
        else item
        for item in image_items(column, root)
    ]


def _item(value: Any, folder: Path) -> bytes | str | None:
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        value = content if content is not None else path
    return str(folder / value) if isinstance(value, str) else value


def _open(path: Path) -> ImageFile:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give Parquet files of images")
    try:
        with pq.ParquetFile(path) as parquet:
            groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
            row_bytes = max((group.total_byte_size // group.num_rows for group in groups if group.num_rows), default=0)
            return ImageFile(path, parquet.schema_arrow, parquet.metadata.num_rows, row_bytes)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as Parquet ({reason}); give Parquet files of images") from error


def _check_agreement(first: ImageFile, other: ImageFile) -> None:
    expected, found = ({field.name: str(field.type) for field in file.schema} for file in (first, other))
    for file, fields in ((first, expected), (other, found)):
        if len(fields) < len(file.schema):
            raise ValueError(f"{file.path} names a column twice ({', '.join(file.schema.names)}); rename one")
    differences = [
        f"{name} is {expected.get(name, 'absent')} in the first and {found.get(name, 'absent')} in the second"
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    ]
    if differences:
        raise ValueError(
            f"{first.path} and {other.path} differ in their columns: {'; '.join(differences)}; "
            "classify them one by one, or make their columns the same"
        )


def _check_column(file: ImageFile, name: str) -> None:
    if name not in file.schema.names:
        raise ValueError(
            f"{file.path} has no column {name!r}; its columns are {', '.join(file.schema.names)}. "
            "Name the one with the images"
        )
    if not _holds_images(file.schema.field(name).type):
        raise ValueError(
            f"column {name!r} of {file.path} is {file.schema.field(name).type}; images are binary, "
            "{bytes, path} structs, or strings that name files"
        )


def _first_values(file: ImageFile, column: str) -> list[str]:
    """Return some of the first values that are not null."""
    for batch in _batches(file, 0, [column]):
        values = [value for value in batch.column(0).to_pylist() if value is not None]
        if values:
            return values[:LOOKED_AT]
    return []


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


def _batches(file: ImageFile, start: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Batches that begin at row `start`; row groups that end before it are not read."""
    names = list(columns or file.schema.names)
    unused = 0
    try:
        # The defaults read whole column chunks ahead; this reads page after page.
        with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=STREAM_BUFFER) as parquet:
            groups, skip = _groups_from(parquet.metadata, start)
            for batch in parquet.iter_batches(batch_size=file.read_rows, row_groups=groups, columns=names):
                if skip < batch.num_rows:
                    yield batch.slice(skip).select(names)
                skip = max(0, skip - batch.num_rows)
                unused += batch.nbytes
                if unused >= READ_BYTES:  # to give pages back and to fault them in again costs more than to read them
                    pa.default_memory_pool().release_unused()
                    unused = 0
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{file.path} cannot be read any further ({reason}); it may be damaged") from error


def _groups_from(metadata: pq.FileMetaData, start: int) -> tuple[list[int], int]:
    first = 0
    while first < metadata.num_row_groups and start >= metadata.row_group(first).num_rows:
        start -= metadata.row_group(first).num_rows
        first += 1
    return list(range(first, metadata.num_row_groups)), start
