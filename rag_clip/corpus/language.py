"""Keep captions in the wanted languages, by column `language`, which the corpus must have."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from rag_clip.corpus.steps import Step, column_of, fault, split
from rag_clip.data import Kept

LANGUAGE = "language"


def language(wanted: Sequence[str]) -> Step:
    """Keep rows in the wanted languages (`en` includes `en-GB` and `EN_us`) and rows without a language (null).

    The step raises ValueError for records without a `language` column.
    """
    codes = [code.lower() for code in wanted]

    def step(records: pa.Table) -> Kept:
        found = column_of(records, "language", f"it says which captions are {', '.join(wanted)}").cast(pl.String)
        spelled = found.str.to_lowercase().str.replace("_", "-")
        return split(records, fault(LANGUAGE, ~(spelled.is_in(codes) | spelled.str.extract(r"^([^-]*)").is_in(codes))))

    return step
