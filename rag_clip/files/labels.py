"""Label sets on disk: .txt, .toml, .json and .parquet.

A .txt file has one name per line, in class order. The other formats may add an id, synonyms and a group to each name,
and templates to the whole set. Lists as other tools write them are read too (see label_formats).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.data import LabelSet
from rag_clip.files.atomic import replacing
from rag_clip.files.label_formats import read_lines, to_entries
from rag_clip.files.reading import decode_utf8, parse_json, parse_toml, read_table
from rag_clip.files.regular import is_regular, read_regular
from rag_clip.files.settings import refuse_unknown

COLUMNS = pa.schema(
    {"name": pa.string(), "id": pa.string(), "synonyms": pa.list_(pa.string()), "group": pa.string()},
)


def read_labels(path: str | Path) -> LabelSet:
    """Read a label set; the suffix gives the format. FILE.parquet:COLUMN takes a column's distinct names, in order.

    Raises ValueError, naming the file and the entry, for empty, duplicate or very long names, wrong types, unknown
    keys and unreadable content; FileNotFoundError if there is no such file.
    """
    path, column = cut_column(path)
    if column:
        return _read_column(path, column)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: label files end in {', '.join(_READERS)}, found suffix {path.suffix!r}")
    if not is_regular(path):
        raise FileNotFoundError(f"there is no label file {path}; give a {', '.join(_READERS)} file")
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def first_classes(labels: LabelSet, limit: int) -> LabelSet:
    """Return the first `limit` classes as a label set; raises ValueError for a limit below 1."""
    if limit < 1:
        raise ValueError(f"the limit is {limit} classes; give at least 1")
    columns = {name: getattr(labels, name)[:limit] for name in ("names", "ids", "synonyms", "groups")}
    return replace(labels, **columns)


def cut_column(path: str | Path) -> tuple[Path, str]:
    """Split FILE.parquet:COLUMN into the file and the column; the column of another path is ''."""
    file, colon, column = str(path).rpartition(":")
    named = colon and file.lower().endswith(".parquet") and not Path(path).exists()
    return (Path(file), column) if named else (Path(path), "")


def _read_column(path: Path, column: str) -> LabelSet:
    if not is_regular(path):
        raise FileNotFoundError(f"there is no file {path}; give FILE.parquet:COLUMN")
    try:
        values = read_table(path, [column])[column].to_pylist()
        names = [name for value in values for name in (value if isinstance(value, list) else [value])]
        return labels_from_document([name for name in dict.fromkeys(names) if name is not None])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_labels(labels: LabelSet, path: str | Path) -> None:
    """Write a label set as .json or .parquet; raises ValueError for another suffix."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".json", ".parquet"):
        raise ValueError(f"{path}: label sets are written as .json or .parquet, found suffix {path.suffix!r}")
    document = labels_to_document(labels)
    with replacing(path) as partial:
        if suffix == ".json":
            partial.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        else:
            metadata = {"templates": json.dumps(document["templates"])}
            pq.write_table(
                pa.Table.from_pylist(document["labels"], COLUMNS.with_metadata(metadata)),
                partial,
                write_page_checksum=True,
            )


def labels_to_document(labels: LabelSet) -> dict[str, Any]:
    """Return {"templates": [...], "labels": [{"name", "id", "synonyms", "group"}, ...]} as plain JSON values."""
    columns = zip(labels.names, labels.ids, labels.synonyms, labels.groups, strict=True)
    return {
        "templates": list(labels.templates),
        "labels": [
            {"name": name, "id": identity, "synonyms": list(synonyms), "group": group}
            for name, identity, synonyms, group in columns
        ],
    }


def labels_from_document(document: object) -> LabelSet:
    """Build a label set from a list of entries, or {"templates", "labels"}; an entry is a name, or has a `name`.

    Raises ValueError that says which entry is wrong, what was found, and what to do.
    """
    document = to_entries(document)
    if isinstance(document, list):
        document = {"labels": document}
    if not isinstance(document, Mapping):
        raise ValueError(
            f"contains a value {_kind(document)}; give a list of names, or an object with `labels` and `templates`"
        )
    _refuse_unknown(document, ("templates", "labels"), "the file")
    entries = document.get("labels")
    if not isinstance(entries, list):
        raise ValueError(f"`labels` is {_kind(entries)}; give a list of names or of objects with a `name`")
    parsed = [_entry(entry, f"label {number}") for number, entry in enumerate(entries, start=1)]
    return LabelSet(
        names=tuple(entry["name"] for entry in parsed),
        ids=tuple(entry.get("id", entry["name"]) for entry in parsed),
        synonyms=tuple(_texts(entry.get("synonyms", []), f"synonyms of {entry['name']!r}") for entry in parsed),
        groups=tuple(entry.get("group", "") for entry in parsed),
        templates=_texts(document.get("templates", []), "templates"),
    )


def _entry(entry: object, where: str) -> dict[str, Any]:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is {_kind(entry)}; give a name, or an object with a `name`")
    _refuse_unknown(entry, COLUMNS.names, where)
    given = {key: value for key, value in entry.items() if value is not None}
    if "name" not in given:
        raise ValueError(f"{where} has no `name`; found {dict(entry)!r}")
    for key in ("name", "id", "group"):
        if not isinstance(given.get(key, ""), str):
            raise ValueError(f"{where} has `{key}` {_kind(given[key])}: {given[key]!r}; give a text")
    return {key: value.strip() if isinstance(value, str) else value for key, value in given.items()}


def _texts(values: object, where: str) -> tuple[str, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"the {where} are {_kind(values)}: {values!r}; give a list of texts")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"the {where} contain {value!r}; give texts that are not empty")
    return tuple(value.strip() for value in values)


def _refuse_unknown(mapping: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    try:
        refuse_unknown(mapping, known)
    except ValueError as error:
        raise ValueError(f"{where} has an {error}") from None


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def _read_txt(path: Path) -> LabelSet:
    # Other tools take line numbers as class numbers, so an empty line between names is refused, not skipped.
    entries = read_lines(decode_utf8(read_regular(path)))
    if all(isinstance(entry, str) for entry in entries):
        return LabelSet(tuple(entries))
    return labels_from_document(entries)


def _read_toml(path: Path) -> LabelSet:
    return labels_from_document(parse_toml(read_regular(path)))


def _read_json(path: Path) -> LabelSet:
    return labels_from_document(parse_json(read_regular(path)))


def _read_parquet(path: Path) -> LabelSet:
    table = read_table(path)
    templates = parse_json((table.schema.metadata or {}).get(b"templates", b"[]"))
    return labels_from_document({"labels": table.to_pylist(), "templates": templates})


_READERS: Mapping[str, Callable[[Path], LabelSet]] = {
    ".txt": _read_txt,
    ".toml": _read_toml,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
