"""How well masks agree with known masks: the mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rag_clip.data import LabelSet
from rag_clip.display import counted
from rag_clip.files.rle import decode_mask
from rag_clip.metrics.segmentation import Overlap, overlap
from rag_clip.metrics.uncertainty import bootstrap

BACKGROUND = "(background)"
COLUMNS = ("row", "label", "height", "width", "counts")
ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class MaskQuality:
    """How well masks agree with known ones.

    mean_iou: the mean over the classes of the truth and the background.
    low, high: its 95 % bootstrap interval over images.
    iou: of each class by name.
    images: how many were compared.
    failed: images with an error in place of masks, which were left out.
    """

    mean_iou: float
    low: float
    high: float
    iou: Mapping[str, float]
    images: int
    failed: int

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"mean IoU {self.mean_iou:.1%} ({self.low:.1%} to {self.high:.1%}) over {counted(self.images, 'image')}, "
            f"{self.failed} failed"
        )

    __repr__ = __str__


def compare_masks(found: Path, truth: Path, labels: LabelSet) -> MaskQuality:
    """Compare a file of masks that `segment` wrote with one of known masks.

    found: the masks; rows with an error are left out.
    truth: a Parquet file with the columns row, label, height, width and counts, sorted by row, as `segment` writes it;
        where its masks overlap, the later one counts, and pixels in none are background. Rows of `found` that it lacks
        are left out.
    labels: the classes.

    Raises ValueError for a truth without these columns, of other classes, of other sizes, or of none of the images.
    """
    known, number = by_row(truth), {name: row for row, name in enumerate(labels.names)}
    row, masks = next(known, (None, []))
    each_image, failed = [], 0
    for place, mine in by_row(found):
        while row is not None and row < place:
            row, masks = next(known, (None, []))
        if row != place:
            continue
        if mine[0].get("error") is not None:
            failed += 1
            continue
        classes = [_classes(each, number, path) for each, path in ((mine, found), (masks, truth))]
        if classes[0].shape != classes[1].shape:
            shapes = " and ".join(f"{each.shape[1]} x {each.shape[0]}" for each in classes)
            raise ValueError(f"{truth}: image {place} has other sizes in the two files, {shapes} pixels")
        each_image.append(overlap(*classes, classes=len(labels) + 1))
    if not each_image:
        raise ValueError(f"{truth} has the masks of none of these images; its rows are counted from 0 over all of them")
    return _quality(each_image, labels, failed)


def labels_of(*files: Path) -> LabelSet:
    """Return the classes whose masks files have, in the order of their names; raises ValueError as `by_row`."""
    names = set[str | None]()
    for path in files:
        with _opened(path) as file:
            names.update(file.read(["label"])["label"].unique().to_pylist())
    return LabelSet(tuple(sorted(name for name in names if name is not None)))


def by_row(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the rows of a file of masks image by image; raises ValueError for a file of another kind."""
    row, group = None, list[dict[str, Any]]()
    with _opened(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            for each in batch.to_pylist():
                if row is not None and each["row"] != row:
                    if each["row"] < row:
                        raise ValueError(f"{path} is not sorted by row; sort it")
                    yield row, group
                    group = []
                row = each["row"]
                group.append(each)
    if row is not None:
        yield row, group


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
                raise ValueError(f"{path} has no column {missing[0]!r}; give masks as `rag-clip segment` writes them")
            yield file
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())})") from error


def _classes(masks: Sequence[Mapping[str, Any]], number: Mapping[str, int], path: Path) -> torch.Tensor:
    """Return the class of each pixel, [height, width]; that of the background is the last."""
    size = masks[0]["height"], masks[0]["width"]
    classes = torch.full(size, len(number))
    for mask in masks:
        if mask["label"] is None:
            continue
        if mask["label"] not in number:
            raise ValueError(f"{path} has masks of {mask['label']!r}, which is no class of the prompts")
        try:
            classes[torch.from_numpy(decode_mask(mask["counts"], size))] = number[mask["label"]]
        except ValueError as error:
            raise ValueError(f"{path}: the mask of {mask['label']!r} in image {mask['row']}: {error}") from error
    return classes


def _quality(images: Sequence[Overlap], labels: LabelSet, failed: int) -> MaskQuality:
    counts = torch.stack([torch.stack([each.intersection, each.predicted, each.truth]) for each in images])  # [n, 3, c]
    total = Overlap(*counts.sum(0))

    judged = counts[:, :, total.present]

    def mean_iou(rows: torch.Tensor) -> list[float]:
        drawn = Overlap(*judged[rows].sum(0))
        return [drawn.mean_iou if drawn.present.any() else float("nan")]

    (interval,) = bootstrap(mean_iou, len(images), draws=1000)
    names = (*labels.names, BACKGROUND)
    values = {names[row]: float(total.iou[row]) for row in total.present.nonzero()[:, 0].tolist()}
    return MaskQuality(interval.value, interval.low, interval.high, values, len(images), failed)
