"""Parquet files with a checksum over their whole content, so that any flipped byte is found.

Parquet's own checksums cover pages but not the footer, where damage may change names, types and row counts.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.files.atomic import replacing
from rag_clip.files.reading import read_table

SEAL = b"rag_clip.checksum"


def write_sealed(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a table with its checksum, replacing the file only once it is complete; `options` are of `write_table`."""
    metadata = {**(table.schema.metadata or {}), SEAL: str(checksum(table))}
    with replacing(path) as partial:
        pq.write_table(table.replace_schema_metadata(metadata), partial, write_page_checksum=True, **options)


def read_sealed(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Verify a table and return it, or some of its columns; a table without a checksum passes.

    Raises ValueError, without the file's name, if it is damaged; OSError if it cannot be opened.
    """
    table = read_table(path)
    metadata = dict(table.schema.metadata or {})
    if (recorded := metadata.pop(SEAL, None)) is not None:
        table = table.replace_schema_metadata(metadata)
        if recorded != str(checksum(table)).encode():
            raise ValueError("is damaged (its checksum differs)")
    missing = [name for name in columns or () if name not in table.column_names]
    if missing:
        raise ValueError(f"has no column {missing[0]!r}; it has {', '.join(table.column_names)}")
    return table if columns is None else table.select(list(columns))


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            crc = zlib.crc32(part, crc)
    return crc


def checksum(table: pa.Table) -> int:
    """Return the CRC-32 of a table's metadata and of the names, types, nulls and values of its columns."""
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    # Parquet and Arrow use different names for the values of a list, although the type is the same.
    kinds = [[field.name, str(field.type).replace("<element: ", "<item: ")] for field in table.schema]
    crc = zlib.crc32(json.dumps([table.num_rows, sorted(metadata.items()), kinds]).encode())
    for column in table.columns:
        crc = zlib.crc32(column.is_null().to_numpy().tobytes(), crc)
        values = column.combine_chunks().drop_null()
        if pa.types.is_fixed_size_list(column.type):
            crc = zlib.crc32(values.flatten().to_numpy(zero_copy_only=False).data, crc)
            continue
        for value in values.to_pylist():
            content = value if isinstance(value, bytes) else repr(value).encode()
            crc = zlib.crc32(content, zlib.crc32(len(content).to_bytes(8, "little"), crc))
    return crc
