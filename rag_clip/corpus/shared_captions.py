"""Drop captions that many images share: boilerplate such as "1920x1080" that no list of patterns foresees.

ALIGN (Jia et al., 2021, arXiv 2102.05918) drops alt-texts shared by more than 10 images, Wukong (Gu et al., 2022, arXiv
2202.06767) those that occur more than 10 times. Both had a billion images; in a small corpus, or where captions name
things, the rule drops the names of common things, so scale the threshold.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.on_disk import MappedColumns
from rag_clip.corpus.counts.tokens import caption_keys
from rag_clip.corpus.steps import Step, fault, split, texts_of
from rag_clip.data import Kept

SHARED = "shared"


def shared_captions(repeats: MappedColumns, *, max_images: int = 10) -> Step:
    """Drop every row whose caption more than `max_images` images of the corpus share; the score is how many do.

    Images are told apart by column `url`; without one each row is an image. Case does not tell captions apart.
    """

    def step(records: pa.Table) -> Kept:
        there, rows = repeats.find(caption_keys(texts_of(records)))
        images = pl.Series(repeats.values("images", rows))
        return split(records, fault(SHARED, pl.Series(there) & (images > max_images)), images)

    return step
