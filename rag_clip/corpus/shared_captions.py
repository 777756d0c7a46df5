"""Drop captions that many images share: boilerplate such as "1920x1080" that a list of patterns would miss.

ALIGN (Jia et al., 2021, arXiv 2102.05918) drops alt-texts shared by more than 10 images, Wukong (Gu et al., 2022, arXiv
2202.06767) texts that occur more than 10 times. Both have a billion images. In a small corpus, or where captions are
plain names, the rule drops the names of common objects, so raise the threshold.
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
    """Drop every row whose caption is shared by more than `max_images` images; the score is the number of images.

    Images are identified by the columns `sha256` or `url`; without them each row is an image. Case is ignored.
    """

    def step(records: pa.Table) -> Kept:
        there, rows = repeats.find(caption_keys(texts_of(records)))
        images = pl.Series(repeats.values("images", rows))
        return split(records, fault(SHARED, pl.Series(there) & (images > max_images)), images)

    return step
