"""Drop captions that repeat an earlier one, over the whole corpus.

Captions are equal if their repaired texts differ at most in case; they are compared by 64-bit hashes. The caption with
the smallest (file, row) is kept, independent of the batches.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.on_disk import MappedColumns
from rag_clip.corpus.counts.positions import Places
from rag_clip.corpus.counts.tokens import caption_keys
from rag_clip.corpus.steps import Step, fault, split, texts_of
from rag_clip.data import Kept

DUPLICATE = "duplicate"


def duplicates(repeats: MappedColumns, places: Places) -> Step:
    """Keep the first of equal captions; the score is the number of images that share the caption.

    `repeats` and `places` come from the corpus counts. The records need columns `file` and `row`.
    """

    def step(records: pa.Table) -> Kept:
        there, rows = repeats.find(caption_keys(texts_of(records)))
        repeated = there & (repeats.values("first", rows) != places.of(records))
        return split(records, fault(DUPLICATE, pl.Series(repeated)), pl.Series(repeats.values("images", rows)))

    return step
