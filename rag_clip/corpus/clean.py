"""Minimal cleaning: repair the encoding of each caption and drop those that say nothing.

Decides row by row, so one batch or many give the same answer. Repeated captions are left to the store, whose ids are
derived from source and text.
"""

from __future__ import annotations

import unicodedata

import ftfy
import pyarrow as pa
import pyarrow.compute as pc

from rag_clip.data import Kept

NULL = "null"
EMPTY = "empty"


def clean(records: pa.Table) -> Kept:
    """Repair column `text` of the records, and drop rows whose text is null or empty; other columns stay.

    `selected` holds the repaired texts, `dropped` the rows as they came, `reason` is `null` or `empty` for each.
    """
    texts = records.column("text").to_pylist()
    repaired = [None if text is None else repair(text) for text in texts]
    kept = pa.array([bool(text) for text in repaired], pa.bool_())
    place = records.schema.get_field_index("text")
    selected = records.set_column(place, "text", pa.array(repaired, pa.string())).filter(kept)
    reasons = [NULL if text is None else EMPTY for text in repaired if not text]
    return Kept(selected, records.filter(pc.invert(kept)), tuple(reasons))


def repair(text: str) -> str:
    """Undo mojibake and HTML entities (ftfy), compose to NFC, and make every run of white space one space."""
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = unicodedata.normalize("NFC", ftfy.fix_text(text))
    return " ".join(text.split())
