"""Prompts on disk: one Parquet row per text, or JSON to edit by hand; both read back to equal Prompts.

A person may delete rows, reorder them and change weights; reading rescales the weights of each class to sum to one.
The label set and the provenance are in the Parquet schema metadata. If another tool dropped the metadata, the classes
are rebuilt from the rows, and the encoder is unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast, get_args
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.data import LabelSet, Prompts, PromptText, Role
from rag_clip.display import counted
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.labels import labels_from_document, labels_to_document
from rag_clip.files.reading import metadata_document, parse_json, read_table, typed_columns
from rag_clip.files.regular import is_regular, read_regular
from rag_clip.files.text_vectors import KeptVectors, keep_vectors, vectors_of

SCHEMA = pa.schema(
    {
        "label": pa.string(),
        "class": pa.int32(),
        "text": pa.string(),
        "weight": pa.float64(),
        "role": pa.string(),
        "source": pa.string(),
        "evidence": pa.string(),
        "score": pa.float64(),
        "rank": pa.int32(),
    }
)
METADATA = b"rag_clip.prompts"
UNKNOWN_PROVENANCE: Mapping[str, Any] = {"encoder": {}, "method": "unknown", "settings": {}, "index": ""}
_OMITTED = {"evidence": "", "score": None, "rank": None}


def write_prompts(prompts: Prompts, path: str | Path) -> None:
    """Write `.parquet` (a row per text) or `.json` (a list per class), replacing the file only once it is complete.

    Vectors that are known of the texts are kept beside it (see `text_vectors`).
    Makes the folder if it is missing. Raises ValueError for another suffix, and OSError if the disk is full; an old
    file then stays as it was.
    """
    path = Path(path)
    suffix = check_prompts_path(path)
    with disk_errors(path), replacing(path) as partial:
        if suffix == ".json":
            partial.write_text(_to_json(prompts), encoding="utf-8")
        else:
            pq.write_table(_to_table(prompts), partial, compression="zstd", write_page_checksum=True)
    keep_vectors(prompts, vectors_of(path))


def read_prompts(path: str | Path) -> Prompts:
    """Read prompts, rescaling the weights of each class to sum to one.

    Raises ValueError, naming the file and the class or row, for a class without texts, a weight that is not a number or
    that of an anchor and negative, a class whose weights sum to zero, an unknown class or role, and any other file;
    FileNotFoundError if there is no such file.
    """
    path = Path(path)
    suffix = check_prompts_path(path)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no prompts file {path}; write one with `rag-clip enhance`")
    try:
        prompts = _from_json(read_regular(path)) if suffix == ".json" else _from_table(_read_table(path))
        return replace(prompts, encoded=KeptVectors(vectors_of(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_prompts_path(path: Path) -> str:
    """Return the lower-case suffix of a prompts file; raises ValueError for another suffix and for a folder."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file, such as {path / 'prompts.parquet'}")
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".json"):
        raise ValueError(f"{path}: prompts are .parquet or .json files, found suffix {path.suffix!r}")
    return suffix


def _to_table(prompts: Prompts) -> pa.Table:
    rows = [
        {"label": name, "class": index, **asdict(text)}
        for index, (name, group) in enumerate(zip(prompts.labels.names, prompts.texts, strict=True))
        for text in group
    ]
    facts = {**labels_to_document(prompts.labels), "provenance": dict(prompts.provenance)}
    return pa.Table.from_pylist(rows, SCHEMA.with_metadata({METADATA: json.dumps(facts)}))


def _read_table(path: Path) -> pa.Table:
    needed = ("label", "text", "weight")
    return typed_columns(read_table(path), SCHEMA, optional=[name for name in SCHEMA.names if name not in needed])


def _from_table(table: pa.Table) -> Prompts:
    facts = metadata_document(table.schema, METADATA) or {}
    rows = table.to_pylist()
    unnamed = [number for number, row in enumerate(rows, start=1) if row["label"] is None]
    if unnamed:
        raise ValueError(f"row {unnamed[0]} has no label; write the name of its class, or remove it")
    known = {key: facts[key] for key in ("templates", "labels") if key in facts}
    labels = labels_from_document(known) if known else LabelSet(_names(rows))
    groups: dict[str, list[PromptText]] = {name: [] for name in labels.names}
    for number, row in enumerate(rows, start=1):
        name = normalize("NFC", row["label"])
        if name not in groups:
            raise ValueError(f"row {number} is of class {name!r}, which its label set does not have")
        groups[name].append(_prompt_text(row, f"row {number}"))
    return _rescaled(labels, list(groups.values()), facts.get("provenance", UNKNOWN_PROVENANCE))


def _names(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return class names in the order of the `class` column; without that column, in order of appearance."""
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row["label"], row.get("class", len(order)))
    if set(order.values()) != set(range(len(order))):
        raise ValueError(
            f"class numbers are missing among its rows ({counted(len(order), 'class')} found); keep a row of each"
        )
    return tuple(sorted(order, key=lambda name: order[name]))


def _to_json(prompts: Prompts) -> str:
    """Return JSON with one text per line, so that a person can delete or change lines."""
    document = labels_to_document(prompts.labels)
    head = {"provenance": dict(prompts.provenance), "templates": document["templates"]}
    classes = [
        f'  {_dump(label)[:-1]}, "texts": [\n{_dump_lines(texts)}\n  ]}}'
        for label, texts in zip(document["labels"], prompts.texts, strict=True)
    ]
    return f'{_dump(head, indent=2)[:-2]},\n  "classes": [\n' + ",\n".join(classes) + "\n  ]\n}\n"


def _dump_lines(texts: Sequence[PromptText]) -> str:
    rows = [{key: value for key, value in asdict(text).items() if value != _OMITTED.get(key, ...)} for text in texts]
    return ",\n".join(f"    {_dump(row)}" for row in rows)


def _dump(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _from_json(content: bytes) -> Prompts:
    facts = parse_json(content)
    if not isinstance(facts, dict) or not isinstance(facts.get("classes"), list):
        raise ValueError('is not a prompts file; it needs a list "classes" of {"name", "texts"}')
    entries = []
    groups = []
    for number, entry in enumerate(facts["classes"], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("texts"), list):
            raise ValueError(f'class {number} has no list "texts"; found {str(entry)[:80]!r}')
        entries.append({key: value for key, value in entry.items() if key != "texts"})
        where = f"class {entry.get('name')!r}, text"
        groups.append([_prompt_text(row, f"{where} {place}") for place, row in enumerate(entry["texts"], start=1)])
    labels = labels_from_document({"labels": entries, "templates": facts.get("templates", [])})
    return _rescaled(labels, groups, facts.get("provenance", UNKNOWN_PROVENANCE))


def _prompt_text(row: Any, where: str) -> PromptText:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise ValueError(f"{where} has no text; remove it or write one")
    weight = row.get("weight")
    role = row.get("role") or "anchor"
    if role not in get_args(Role):
        raise ValueError(f"{where} has role {role!r}; a text is one of {', '.join(get_args(Role))}")
    least = -math.inf if role == "context" else 0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not least <= weight < math.inf:
        raise ValueError(f"{where} has weight {weight!r}; weights are numbers from 0 up, below 0 only of contexts")
    return PromptText(
        text=row["text"],
        weight=float(weight),
        role=cast(Role, role),
        source=row.get("source") or "",
        evidence=row.get("evidence") or "",
        score=row.get("score"),
        rank=row.get("rank"),
    )


def _rescaled(labels: LabelSet, groups: Sequence[Sequence[PromptText]], provenance: Mapping[str, Any]) -> Prompts:
    if not isinstance(provenance, Mapping):
        raise ValueError(f"its provenance is of type {type(provenance).__name__}; restore it, or delete the key")
    texts = tuple(_rescale(name, group) for name, group in zip(labels.names, groups, strict=True))
    return Prompts(labels, texts, dict(provenance))


def _rescale(name: str, group: Sequence[PromptText]) -> tuple[PromptText, ...]:
    if not group:
        raise ValueError(f"class {name!r} has no text left; keep at least one, or enhance a label set without it")
    total = sum(text.weight for text in group)
    if not 0 < total < math.inf:
        raise ValueError(f"the weights of class {name!r} sum to {total}; give at least one text a weight above zero")
    if abs(total - 1) < 1e-9:
        return tuple(group)
    return tuple(replace(text, weight=text.weight / total) for text in group)
