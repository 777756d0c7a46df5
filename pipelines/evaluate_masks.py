"""Measure masks against known masks: the intersection over union of each class, and its mean."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from rag_clip.evaluation.segmentation import MaskQuality, compare_masks, labels_of
from rag_clip.files.measures import write_measures
from rag_clip.files.outputs import holding

from .running import Running

FORMAT = b"rag_clip.segmentation"
COLUMNS = pa.schema(
    {"measure": pa.string(), "label": pa.string(), "value": pa.float64(), "low": pa.float64(), "high": pa.float64()}
)


def evaluate_masks(
    masks: str | Path,
    truth: str | Path,
    *,
    output: str | Path | None = None,
    running: Running = Running(),  # noqa: B008
) -> MaskQuality:
    """Compare a file of masks, as `segment` writes it, with one of known masks (see `compare_masks`).

    masks, truth: Parquet files with the columns row, label, height, width and counts, sorted by row.
    output: a Parquet file with a row for the mean over classes and one for each class.
    running: `force`.

    Raises ValueError as `compare_masks`, and for an `output` as `holding` does.
    """
    found, known = Path(masks), Path(truth)
    place = None if output is None else Path(output)
    with holding([(place, "evaluate")], inputs=[found, known], force=running.force):
        quality = compare_masks(found, known, labels_of(found, known))
        if place is not None:
            mean = {"measure": "mean_iou", "value": quality.mean_iou, "low": quality.low, "high": quality.high}
            rows = [mean, *({"measure": "iou", "label": name, "value": value} for name, value in quality.iou.items())]
            facts = {"images": quality.images, "failed": quality.failed}
            write_measures(place, rows, kind=FORMAT, facts=facts, schema=COLUMNS)
    return quality
