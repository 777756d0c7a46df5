"""Drop captions of images that are small or very elongated, where the corpus states their size.

ALIGN (Jia et al., 2021, arXiv 2102.05918) and Wukong (Gu et al., 2022, arXiv 2202.06767) keep images with both sides
above 200 pixels and an aspect ratio from 1/3 to 3.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from rag_clip.corpus.steps import Step, split
from rag_clip.data import Kept

IMAGE_SMALL = "image_small"
IMAGE_RATIO = "image_ratio"


def image_size(*, over: int = 200, max_ratio: float = 3.0) -> Step:
    """Keep images with both sides longer than `over` pixels and long side / short side at most `max_ratio`.

    Reads columns `width` and `height`. Rows with a null in either are kept, and so are all rows without both columns.
    The score is the shorter side, or the ratio.
    """

    def step(records: pa.Table) -> Kept:
        if not {"width", "height"} <= set(records.column_names):
            return split(records, pl.Series([None] * records.num_rows, dtype=pl.String))
        sides = pl.DataFrame({name: pl.Series(records.column(name)) for name in ("width", "height")}).cast(pl.Float64)
        known = pl.all_horizontal(pl.all().is_not_null())
        shorter = pl.min_horizontal("width", "height")
        ratio = pl.max_horizontal("width", "height") / shorter
        verdict = sides.select(
            reason=pl.when(known & (shorter <= over))
            .then(pl.lit(IMAGE_SMALL))
            .when(known & (ratio > max_ratio))
            .then(pl.lit(IMAGE_RATIO)),
            score=pl.when(shorter <= over).then(shorter).otherwise(ratio),
        )
        return split(records, verdict["reason"], verdict["score"])

    return step
