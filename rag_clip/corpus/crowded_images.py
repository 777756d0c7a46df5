"""Drop images with many different captions: spacers, logos and placeholders, which none of the captions describe.

ALIGN (Jia et al., 2021, arXiv 2102.05918) drops images with more than 1,000 texts; here different texts are counted.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.on_disk import MappedColumns
from rag_clip.corpus.counts.positions import image_names
from rag_clip.corpus.counts.tokens import keys_of
from rag_clip.corpus.steps import Step, fault, split
from rag_clip.data import Kept

CROWDED = "crowded"


def crowded_images(texts: MappedColumns, *, max_texts: int = 1000) -> Step:
    """Drop every row whose image has more than `max_texts` different captions in the corpus; the score is their number.

    `texts` comes from the corpus counts. An image is identified by column `sha256`, else by `url`; a row with neither
    is an image of its own.
    """

    def step(records: pa.Table) -> Kept:
        names = image_names(records)
        found, rows = texts.find(keys_of(names.fill_null("").to_list()))
        counts = pl.Series(texts.values("texts", rows))
        crowded = pl.Series(found & names.is_not_null().to_numpy()) & (counts > max_texts)
        return split(records, fault(CROWDED, crowded), counts)

    return step
