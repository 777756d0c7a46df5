"""Support sets on disk: one Parquet row per image, with its features and optionally the bytes of its file.

Columns: `reference`, `origin`, `classes` (names) and their `shares`, `relevance`, `features` [d] float32, a column
`features:NAME` for each additional encoder, and `image`. The schema metadata contain the label set, the provenance, and
`several`: whether the set is multi-label. A person may delete rows; nothing else depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from rag_clip.data import Fingerprint, LabelSet, SeveralLabels, Support, check_same_encoder, read_fingerprint
from rag_clip.display import counted
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.labels import labels_from_document, labels_to_document
from rag_clip.files.outputs import holding
from rag_clip.files.reading import metadata_document, read_table, typed_columns
from rag_clip.files.regular import is_regular

METADATA = b"rag_clip.support"
OTHER = "features:"
SCHEMA = pa.schema(
    [
        pa.field("reference", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("classes", pa.list_(pa.string()), nullable=False),
        pa.field("shares", pa.list_(pa.float32()), nullable=False),
        pa.field("relevance", pa.float32(), nullable=False),
    ]
)


def write_support(support: Support, path: str | Path, *, images: Sequence[bytes | None] | None = None) -> None:
    """Write a `.parquet` file, with the bytes of the `images` if given, replacing it only once it is complete.

    Makes the folder if it is missing. Raises ValueError for another suffix or number of images, and OSError if the disk
    is full; an old file then stays as it was.
    """
    path = Path(path)
    check_support_path(path)
    if images is not None and len(images) != len(support):
        raise ValueError(
            f"{counted(len(images), 'image')} for {counted(len(support), 'row')} of support; give one, or None, per row"
        )
    with disk_errors(path), replacing(path) as partial:
        pq.write_table(_to_table(support, images), partial, compression="zstd", write_page_checksum=True)


def read_support(path: str | Path, *, encoder: Fingerprint | None = None) -> Support:
    """Read a support set, its tensors on the CPU.

    Raises ValueError, naming the file, if it is not a support file, has values that Support refuses, classes that are
    not in its label set, or features of another encoder than `encoder`; FileNotFoundError if there is no such file.
    """
    path = Path(path)
    check_support_path(path)
    table = _read(path)
    try:
        support = _from_table(table)
        if encoder is not None:
            check_support_encoder(support, encoder)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return support


def read_support_images(path: str | Path) -> list[bytes | None]:
    """Return the bytes of each image of a support file; None for images stored without them."""
    table = _read(Path(path))
    if "image" not in table.column_names:
        return [None] * table.num_rows
    try:
        images: list[bytes | None] = typed_columns(table, pa.schema({"image": pa.binary()}))["image"].to_pylist()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return images


def check_support_path(path: Path) -> None:
    """Raise ValueError for a folder, and for a suffix other than .parquet."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file, such as {path / 'support.parquet'}")
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path}: support sets are .parquet files, found suffix {path.suffix!r}")


def check_support_labels(path: str | Path, support: Support, labels: LabelSet) -> None:
    """Raise ValueError if the support set of a file has other classes than `labels`; their order may differ."""
    foreign = sorted(set(support.labels.names) ^ set(labels.names))
    if foreign:
        raise ValueError(
            f"{path} has other classes than the prompts ({foreign[0]!r} is in one of them only); "
            "make it for this label set"
        )


def check_support_encoder(support: Support, encoder: Fingerprint) -> None:
    """Raise ValueError if the features were made with another encoder; a set that records none passes."""
    if recorded := support.recorded.encoder:
        advice = "make it again with this encoder"
        check_same_encoder(
            read_fingerprint(recorded), encoder, what="the support set was made", advice=advice, of_images=True
        )


def merge_supports(parts: Sequence[Support]) -> tuple[Support, tuple[tuple[int, int], ...]]:
    """Join support sets of the same classes and encoder; return also (part, row) of each image kept.

    The classes are in the order of the first part. Images with the same reference and origin are one image, kept once:
    its targets are the mean of theirs, or their union if the sets are multi-label, and its relevance is the lowest.
    Raises ValueError for no parts, for single-label beside multi-label parts, for classes or widths that differ, and
    for features of different encoders.
    """
    if not parts:
        raise ValueError("there is nothing to merge; give at least one support set")
    aligned = [_align(part, parts[0]) for part in parts]
    places: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for number, part in enumerate(aligned):
        for row, key in enumerate(zip(part.origin, part.references, strict=True)):
            places.setdefault(key, []).append((number, row))
    kept = tuple(same[0] for same in places.values())
    shares = torch.stack([_shares_of(aligned, same) for same in places.values()])  # [m, c]
    relevance = torch.stack([_lowest_relevance(aligned, same) for same in places.values()])  # [m]
    first = aligned[0]
    merged = replace(
        first,
        features=torch.stack([aligned[part].features[row] for part, row in kept]),
        targets=SeveralLabels(shares) if aligned[0].several else shares,
        relevance=relevance,
        origin=tuple(aligned[part].origin[row] for part, row in kept),
        references=tuple(aligned[part].references[row] for part, row in kept),
        others={name: torch.stack([aligned[part].others[name][row] for part, row in kept]) for name in first.others},
        pixels=None,
        provenance={
            "encoder": first.recorded.encoder,
            "method": "merged",
            "settings": {},
            "parts": [dict(part.provenance) for part in parts],
        },
    )
    return merged, kept


def merge_support_files(paths: Sequence[str | Path], output: str | Path, *, force: bool = False) -> tuple[int, int]:
    """Merge support files with the bytes of their images; return the numbers of images and of repeated ones dropped.

    Raises ValueError as `read_support` and `merge_supports` do, for an output that is an input, and, without `force`,
    for an output that another program wrote; BusyError if another process is writing it.
    """
    check_support_path(Path(output))
    with holding([(output, "support merge")], inputs=[paths], force=force):
        return _merge(paths, output)


def _merge(paths: Sequence[str | Path], output: str | Path) -> tuple[int, int]:
    parts = [read_support(path) for path in paths]
    merged, kept = merge_supports(parts)
    bytes_of = [read_support_images(path) for path in paths]
    images = [bytes_of[part][row] for part, row in kept]
    write_support(merged, output, images=images if any(images) else None)
    return len(merged), sum(map(len, parts)) - len(merged)


def _shares_of(parts: Sequence[Support], places: Sequence[tuple[int, int]]) -> torch.Tensor:
    shares = torch.stack([parts[part].shares[row] for part, row in places])  # [repeats, c]
    return shares.any(0) if parts[0].several else shares.mean(0)


def _lowest_relevance(parts: Sequence[Support], places: Sequence[tuple[int, int]]) -> torch.Tensor:
    return torch.stack([parts[part].relevance[row] for part, row in places]).min()


def _align(part: Support, first: Support) -> Support:
    """Return `part` with its classes in the order of `first`, after checking that the two can be merged."""
    names, expected = part.labels.names, first.labels.names
    if set(names) != set(expected):
        differing = sorted(set(names) ^ set(expected))
        raise ValueError(f"the support sets have different classes, such as {differing[0]!r}; make them for the same")
    if part.several != first.several:
        raise ValueError("some of the support sets are multi-label and others are not; merge sets of one kind")
    if part.features.shape[1] != first.features.shape[1] or part.others.keys() != first.others.keys():
        raise ValueError(
            f"the support sets have features of width {part.features.shape[1]} and {first.features.shape[1]}, and "
            f"additional encoders {sorted(part.others)} and {sorted(first.others)}; make them with the same encoders"
        )
    if recorded := first.recorded.encoder:
        check_support_encoder(part, read_fingerprint(recorded))
    return part.arrange(first.labels)


def _to_table(support: Support, images: Sequence[bytes | None] | None) -> pa.Table:
    targets = support.shares.float().cpu().numpy()  # [m, c]
    classes = [np.flatnonzero(row) for row in targets]
    names = np.array(support.labels.names, dtype=object)
    columns = {
        "reference": pa.array(support.references, pa.string()),
        "origin": pa.array(support.origin, pa.string()),
        "classes": pa.array([list(names[present]) for present in classes], pa.list_(pa.string())),
        "shares": pa.array(
            [row[present] for row, present in zip(targets, classes, strict=True)], pa.list_(pa.float32())
        ),
        "relevance": pa.array(support.relevance.float().cpu().numpy(), pa.float32()),
        "features": _vectors(support.features),
        **{f"{OTHER}{name}": _vectors(values) for name, values in support.others.items()},
    }
    if images is not None:
        columns["image"] = pa.array(images, pa.binary())
    facts = {**labels_to_document(support.labels), "provenance": dict(support.provenance), "several": support.several}
    return pa.table(columns, metadata={METADATA: json.dumps(facts)})


def _vectors(values: torch.Tensor) -> pa.Array:
    flat = pa.array(values.float().cpu().numpy().reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _read(path: Path) -> pa.Table:
    if not is_regular(path):
        raise FileNotFoundError(f"there is no support file {path}; write one with `rag-clip support`")
    try:
        return read_table(path)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _from_table(table: pa.Table) -> Support:
    facts = metadata_document(table.schema, METADATA)
    if facts is None or "features" not in table.column_names:
        raise ValueError(
            f"is not a support file; it needs the columns {', '.join(SCHEMA.names)}, features and its metadata"
        )
    labels = labels_from_document({key: facts.get(key) for key in ("templates", "labels")})
    rows = typed_columns(table, SCHEMA)
    targets = _shares(labels, rows)
    others = {name.removeprefix(OTHER): name for name in table.column_names if name.startswith(OTHER)}
    return Support(
        labels,
        _matrix(table, "features"),
        SeveralLabels(targets > 0) if facts.get("several") else targets,
        torch.from_numpy(rows["relevance"].to_numpy().copy()),
        tuple(rows["origin"].to_pylist()),
        tuple(rows["reference"].to_pylist()),
        _provenance(facts),
        {name: _matrix(table, column) for name, column in others.items()},
    )


def _provenance(facts: Mapping[str, Any]) -> dict[str, Any]:
    provenance = facts.get("provenance", {})
    if not isinstance(provenance, Mapping):
        raise ValueError(f"its provenance is of type {type(provenance).__name__}; make the support set again")
    return dict(provenance)


def _matrix(table: pa.Table, name: str) -> torch.Tensor:
    column = typed_columns(table, pa.schema([pa.field(name, pa.list_(pa.float32()), nullable=False)]))[name]
    values = column.combine_chunks()
    widths = {int(width) for width in pc.unique(pc.list_value_length(values)).to_pylist()}
    if len(widths) > 1:
        raise ValueError(f"column {name!r} has rows of {min(widths)} and of {max(widths)} numbers; encode them again")
    flat = values.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(len(values), max(widths, default=0)).copy())


def _shares(labels: LabelSet, table: pa.Table) -> torch.Tensor:
    columns = {name: place for place, name in enumerate(labels.names)}
    targets = torch.zeros(table.num_rows, len(labels))
    for row, (names, shares) in enumerate(zip(table["classes"].to_pylist(), table["shares"].to_pylist(), strict=True)):
        if len(names) != len(shares) or None in shares:
            raise ValueError(
                f"row {row + 1} has {counted(len(names), 'class')} and the shares {shares}; give one per class"
            )
        for name, share in zip(names, shares, strict=True):
            if name not in columns:
                raise ValueError(f"row {row + 1} has the class {name!r}, which is not in its label set")
            targets[row, columns[name]] += share
    return targets
