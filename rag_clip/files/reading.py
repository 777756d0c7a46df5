"""Read JSON, TOML, Parquet and .npz files; anything wrong with a file raises ValueError with one sentence.

Every file that a person or another tool wrote is read by these functions, so that damaged or hostile content raises no
other exception. Messages continue a sentence that begins with the file's name, which the caller adds.
"""

from __future__ import annotations

import errno
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.files.regular import open_regular, read_regular

MOST_LEVELS = 100
# tomllib's time is quadratic in the parts of a dotted key: a file of 30 kB could take seconds.
_LONG_KEY = re.compile(
    rf"""(?:^|[{{,])[\s\[]*(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')\s*\.\s*){{{MOST_LEVELS}}}""", re.MULTILINE
)


def decode_utf8(content: bytes) -> str:
    """Decode UTF-8, without a byte order mark; raises ValueError that names the first invalid byte."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise ValueError(f"is not UTF-8, {found}; save it as UTF-8") from error


def parse_json(content: str | bytes, *, pairs: Callable[[Sequence[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON; `pairs` builds the value of an object from its pairs, as `object_pairs_hook` of `json.loads`.

    Raises ValueError for content that is not JSON or UTF-8, for values nested deeper than `MOST_LEVELS`, and for texts
    with half a surrogate pair, which are not valid Unicode.
    """
    text = decode_utf8(content) if isinstance(content, bytes) else content
    try:
        document = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(f"nests values deeper than {MOST_LEVELS} levels; flatten it") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error}") from error
    _check_document(document)
    return document


def parse_toml(content: bytes) -> dict[str, Any]:
    """Parse TOML; raises ValueError as `parse_json` does."""
    text = decode_utf8(content)
    try:
        if _LONG_KEY.search(text):
            raise RecursionError
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"nests values deeper than {MOST_LEVELS} levels; flatten it") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not valid TOML: {error}") from error
    _check_document(document)
    return document


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; raises ValueError, naming the file, and OSError if it cannot be read."""
    try:
        return parse_toml(read_regular(path))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns.

    Raises ValueError, without the file's name, if it is damaged, lacks a column or has one twice; OSError if it cannot
    be opened.
    """
    schema = read_schema(path)
    missing = [name for name in columns or () if name not in schema.names]
    if missing:
        raise ValueError(f"has no column {missing[0]!r}; it has {', '.join(schema.names)}")
    try:
        with open_regular(path) as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read(columns=columns and list(columns))
            table.validate(full=True)
            return table
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from error


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet file with its metadata; raises as `read_table` does."""
    with open_regular(path) as file:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(error) from error
    twice = [name for place, name in enumerate(schema.names) if name in schema.names[:place]]
    if twice:
        raise ValueError(f"has two columns {twice[0]!r}; rename one")
    return schema


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file.

    Raises ValueError, without the file's name, for any other file, a damaged one, and one that holds Python objects.
    """
    with open_regular(path) as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays}
        except Exception as error:  # damaged headers raise errors of zipfile, tokenize and ast, and MemoryError
            if isinstance(error, OSError) and error.errno not in (
                None,
                errno.EINVAL,
            ):  # EINVAL: a seek before its start
                raise
            if "allow_pickle" in str(error) or isinstance(error, AttributeError):
                raise ValueError("is not an .npz file of plain arrays; save it without Python objects") from error
            reason = f"{type(error).__name__}: {_line(error)[:200]}"
            raise ValueError(f"is not a readable .npz file ({reason}); write it again") from error


def typed_columns(table: pa.Table, schema: pa.Schema, *, optional: Sequence[str] = ()) -> pa.Table:
    """Return the columns of `schema`, cast to its types, with the metadata of `table`; `optional` ones may be missing.

    Raises ValueError for a missing column, for values that cannot be cast, and for nulls in a field that is not
    nullable.
    """
    columns = {}
    for field in schema:
        if field.name not in table.column_names:
            if field.name in optional:
                continue
            raise ValueError(f"has no column {field.name!r}; it has {', '.join(table.column_names) or 'none'}")
        try:
            columns[field.name] = table[field.name].cast(field.type)
        except pa.ArrowException as error:
            raise ValueError(f"column {field.name!r} does not hold {field.type} values: {_line(error)}") from error
        if columns[field.name].null_count and not field.nullable:
            row = columns[field.name].is_null().index(True).as_py()
            raise ValueError(f"has no {field.name!r} in row {row + 1}; delete the row, or fill it in")
    return pa.table(columns, metadata=table.schema.metadata)


def metadata_document(schema: pa.Schema, key: bytes) -> dict[str, Any] | None:
    """Return the JSON object under a key of a Parquet file's metadata; None if there is no such key.

    Raises ValueError if the value is not a JSON object.
    """
    content = (schema.metadata or {}).get(key)
    if content is None:
        return None
    try:
        document = parse_json(content)
    except ValueError as error:
        raise ValueError(f"its metadata {key.decode()!r} {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"its metadata {key.decode()!r} is not a JSON object; write the file again")
    return document


def _check_document(document: object) -> None:
    """Refuse values nested too deeply for repr and json, and texts that cannot be encoded."""
    level = [document]
    for _ in range(MOST_LEVELS):
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, Mapping):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
        if not below:
            return
        level = below
    raise ValueError(f"nests values deeper than {MOST_LEVELS} levels; flatten it")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"contains the text {text[:40]!a}, which is not valid Unicode: half a surrogate pair at character "
            f"{error.start}; write the whole character"
        ) from error


def _damaged(error: Exception) -> Exception:
    """Return a ValueError for Arrow's error about a file; a system error is returned unchanged."""
    if isinstance(error, OSError) and error.errno:
        return error
    return ValueError(f"is not a readable Parquet file ({_line(error)}); write it again")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
