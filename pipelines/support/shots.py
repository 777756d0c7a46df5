"""Make a support set of k labelled images per class: draw, decode several views, encode, average."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn.functional import normalize, one_hot

from rag_clip.atomic import replacing
from rag_clip.data import LabelSet, Support
from rag_clip.progress import Progress, Report, silent
from rag_clip.protocols import Encoder
from rag_clip.support.shots import Shots, ValidationShots, choose_shots
from rag_clip.support_file import METADATA, check_support_path, read_support, write_support

from ..imaging.decoding import Item
from ..imaging.facts import examine
from ..imaging.rows import ImageFile, open_image_files
from ..imaging.view_features import choose_workers, encode_views, read_pieces
from ..imaging.views import CropViews
from ..labelled import read_classes


@dataclass(frozen=True, slots=True)
class ShotsSummary:
    """What `support_from_shots` did: `images` of `classes` in `output`, `failed` drawn but unusable.

    `short` maps classes that had fewer than k images to their number, `missing` are those without any, `repeated`
    images were drawn more than once: they stand once, for all classes they were labelled with. `reused` tells that the
    file was there already, made by the same encoder from the same files with the same settings.
    """

    output: Path
    images: int
    classes: int
    failed: int
    short: Mapping[str, int]
    missing: tuple[str, ...]
    repeated: int
    validation: int
    reused: bool


class _Drawn(NamedTuple):
    """The images drawn that can be used: features float32 [m, d], row among all files, SHA-256."""

    features: torch.Tensor
    rows: list[int]
    hashes: list[str]


def support_from_shots(
    paths: Sequence[str | Path],
    labels: LabelSet,
    *,
    output: str | Path,
    encoder: Encoder,
    k: int,
    seed: int = 0,
    views: int = 10,
    validation: ValidationShots = "min(k,4)",
    validation_output: str | Path | None = None,
    image_column: str = "image",
    label_column: str = "label",
    workers: int | None = None,
    report: Report = silent,
) -> ShotsSummary:
    """Write the support set of k images per class of labelled Parquet files; see `choose_shots`.

    The feature of an image is the mean of those of `views` random crops, normalised again, ten as Tip-Adapter has it;
    0 encodes the whole image once. `validation_output` gets the images drawn to validate, as a labelled Parquet file
    with the columns `image` and `label`. Raises ValueError for labels that are not in the label set, settings out of
    range, and where no image can be used.
    """
    output = Path(output)
    check_support_path(output)
    if views < 0:
        raise ValueError(f"views is {views}; give 0 for the whole image, or a number of crops")
    files = open_image_files(paths, image_column=image_column)
    classes = read_classes(files, labels, label_column)
    names = [labels.names[row] for row in classes]
    shots = choose_shots(names, k=k, seed=seed, validation=validation)
    if validation_output is not None:
        _write_validation(Path(validation_output), files, shots.validation, names, image_column)
    settings = {"k": k, "seed": seed, "views": views, "validation": validation}
    key = _key(files, labels, encoder, {**settings, "image": image_column, "label": label_column})
    support, failed = _read_made(output, key)
    reused = support is not None
    if support is None:
        items = _read_items(files, shots.support, image_column)
        drawn, failed = _encode(items, sorted(shots.support), encoder, CropViews(encoder.preprocess, views, seed),
                                choose_workers(workers, len(shots.support)), report)  # fmt: skip
        facts: dict[str, Any] = {"encoder": asdict(encoder.fingerprint), "method": "shots", "settings": settings}
        facts |= {"files": [str(file.path) for file in files], "key": key, "failed": failed}
        support = _assemble(labels, drawn, classes, _references(files, drawn.rows), facts)
        write_support(support, output)
    return _summarise(output, support, shots, failed, reused)


def _summarise(output: Path, support: Support, shots: Shots, failed: int, reused: bool) -> ShotsSummary:
    return ShotsSummary(
        output,
        len(support),
        len(support.labels) - len(support.missing),
        failed,
        shots.short,
        support.missing,
        len(shots.support) - failed - len(support),
        len(shots.validation),
        reused,
    )


def _encode(
    items: Iterator[list[Item]], rows: Sequence[int], encoder: Encoder, views: CropViews, workers: int, report: Report
) -> tuple[_Drawn, int]:
    features, kept, hashes = [], [], []
    errors: list[str] = []
    place = 0
    for piece in encode_views(items, views, encoder=encoder, workers=workers, examine=examine):
        features.append(normalize(piece.features.mean(1), dim=-1))
        hashes += [fact.sha256 for fact in piece.facts]
        for error in piece.errors:
            if error is None:
                kept.append(rows[place])
            else:
                errors.append(error)
            place += 1
        report(Progress("encode", place, len(rows), "images"))
    if not kept:
        raise ValueError(f"none of the {len(rows)} images drawn can be used; the first says: {errors[0]}")
    return _Drawn(torch.cat([rows for rows in features if len(rows)]), kept, hashes), len(errors)


def _assemble(
    labels: LabelSet, drawn: _Drawn, classes: Sequence[int], references: Sequence[str], provenance: Mapping[str, Any]
) -> Support:
    """Make one row of each different image; the targets of an image that was drawn for several classes are shared."""
    first = {digest: place for place, digest in reversed(list(enumerate(drawn.hashes)))}
    order = sorted(first.values())
    row_of = {drawn.hashes[place]: row for row, place in enumerate(order)}
    targets = torch.zeros(len(order), len(labels))
    hot = one_hot(torch.tensor([classes[row] for row in drawn.rows]), len(labels)).float()
    targets.index_add_(0, torch.tensor([row_of[digest] for digest in drawn.hashes]), hot)
    return Support(
        labels,
        drawn.features[order],
        targets / targets.sum(1, keepdim=True),
        torch.ones(len(order)),
        ("shot",) * len(order),
        tuple(references[place] for place in order),
        provenance,
    )


def _read_items(files: Sequence[ImageFile], rows: Sequence[int], image_column: str) -> Iterator[list[Item]]:
    """Yield the images of `rows`, counted over all files, in ascending order."""
    start = 0
    for file in files:
        held = sorted(row - start for row in rows if start <= row < start + file.rows)
        if held:
            yield from read_pieces(file, image_column, held)
        start += file.rows


def _references(files: Sequence[ImageFile], rows: Sequence[int]) -> list[str]:
    ends = torch.tensor([file.rows for file in files]).cumsum(0)
    numbers = torch.searchsorted(ends, torch.tensor(rows), right=True).tolist()
    starts = [0, *ends.tolist()]
    return [f"{files[file].path}#{row - starts[file]}" for file, row in zip(numbers, rows, strict=True)]


def _write_validation(
    path: Path, files: Sequence[ImageFile], rows: Sequence[int], names: Sequence[str], image_column: str
) -> None:
    if not rows:
        raise ValueError("no image is left to validate; draw fewer per class, or give more")
    items = [item for piece in _read_items(files, rows, image_column) for item in piece]
    # Paths would not hold from another folder, so images are copied; an unreadable one stays null, and fails later.
    images = [Path(item).read_bytes() if isinstance(item, str) else item for item in items]
    content = [image if isinstance(image, bytes) else None for image in images]
    table = pa.table({"image": pa.array(content, pa.binary()), "label": [names[row] for row in sorted(rows)]})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(table, partial)


def _key(files: Sequence[ImageFile], labels: LabelSet, encoder: Encoder, settings: Mapping[str, Any]) -> str:
    """Name what decides a support set: another encoder, file, label set or setting has another key."""
    states = [(str(file.path.resolve()), file.path.stat()) for file in files]
    sources = [[place, state.st_size, state.st_mtime_ns] for place, state in states]
    facts = json.dumps([encoder.fingerprint.key, labels.names, sources, dict(settings)])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _read_made(path: Path, key: str) -> tuple[Support | None, int]:
    """Return the support set at `path` if it was made with `key`, and how many images had failed then."""
    if not path.is_file():
        return None, 0
    try:
        recorded = json.loads(pq.read_schema(path).metadata[METADATA])["provenance"]
        if recorded.get("key") != key:
            return None, 0
        return read_support(path), int(recorded["failed"])
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException):
        return None, 0
