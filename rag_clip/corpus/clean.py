"""Repair the encoding of captions, remove HTML and web addresses, and drop captions that are then empty.

Each row is decided on its own, so the result does not depend on the batches. Repeated captions are left to the store,
whose ids are derived from source and text, and to `duplicates.py`.
"""

from __future__ import annotations

import html
import re
import unicodedata

import ftfy
import polars as pl
import pyarrow as pa

from rag_clip.corpus.steps import column_of, split
from rag_clip.data import Kept

# Known tags only: "<3", "x < y" and placeholders such as "<person>" are text.
_TAGS = (
    "a|abbr|article|aside|audio|b|big|blockquote|body|br|button|center|cite|code|div|em|embed|figcaption|figure|font|"
    "footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|meta|nav|noscript|object|ol|p|"
    "picture|pre|s|script|section|small|source|span|strike|strong|style|sub|sup|svg|table|tbody|td|th|thead|title|tr|"
    "tt|u|ul|video"
)
_CODE = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*|\s*/)?>", re.IGNORECASE)
# A tag cut off at the end of the caption; its first attribute distinguishes it from text.
_CUT_TAG = re.compile(rf"<(?:{_TAGS})\s+[a-z-]+\s*=[^<>]*$", re.IGNORECASE)
_SHORTCODE = re.compile(r"\[/?(?:caption|gallery|embed|url|img)(?:[\s=][^\]\[]*)?\]", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s<>\"')\]]+", re.IGNORECASE)
TRACE = r"[<\[&]|://|(?i:www\.)"  # matches every caption that these patterns can change
NULL = "null"
EMPTY = "empty"
MARKUP = "markup"
OVERSIZED = "oversized"
MAX_BYTES = 65_536
_SUSPICIOUS = rf"[^ -~]|  |^ | $|{TRACE}"


def remove_markup(text: str) -> str:
    """Return the text without tags, comments, shortcodes and web addresses, with entities resolved.

    White space is not changed.
    """
    if "<" in text:
        text = _CUT_TAG.sub(" ", _TAG.sub(" ", _CODE.sub(" ", text)))
    if "[" in text:
        text = _SHORTCODE.sub(" ", text)
    if "://" in text or "www." in text.lower():
        text = _ADDRESS.sub(" ", text)
    return html.unescape(text) if "&" in text else text


def clean(records: pa.Table) -> Kept:
    """Repair column `text` of the records, and drop rows without a caption; other columns stay.

    `selected` has the repaired texts, `dropped` the original rows. `reason` is `null`, `empty`, `markup` (only tags and
    addresses), or `oversized` (more than 64 KiB, which is not a caption).
    """
    texts = column_of(records, "text", "every cleaning step reads it").cast(pl.String)
    oversized = (texts.str.len_bytes() > MAX_BYTES).fill_null(False)
    checked = pl.select(pl.when(~oversized).then(texts)).to_series()
    repaired = _repair_suspicious(checked)
    blank = (repaired == "").fill_null(False)
    space = checked.str.contains(r"^[\s\p{C}]*$").fill_null(False)
    faults = pl.select(
        pl.when(oversized)
        .then(pl.lit(OVERSIZED))
        .when(texts.is_null())
        .then(pl.lit(NULL))
        .when(blank & space)
        .then(pl.lit(EMPTY))
        .when(blank)
        .then(pl.lit(MARKUP))
    ).to_series()
    kept = split(records, faults)
    place = records.schema.get_field_index("text")
    column = repaired.filter(faults.is_null()).to_arrow().cast(pa.string())
    return Kept(kept.selected.set_column(place, "text", column), kept.dropped, kept.reason, kept.score)


def _repair_suspicious(texts: pl.Series) -> pl.Series:
    """Repair texts that may need it; single-spaced printable ASCII without traces of markup is skipped, for speed."""
    rows = texts.str.contains(_SUSPICIOUS).fill_null(False).arg_true()
    repaired = pl.Series([repair(text) for text in texts.gather(rows).to_list()], dtype=pl.String)
    return texts.clone().scatter(rows, repaired) if len(rows) else texts


def repair(text: str) -> str:
    """Undo mojibake (ftfy) and HTML (`remove_markup`), normalise to NFC, and collapse runs of white space."""
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = unicodedata.normalize("NFC", ftfy.fix_text(text))
    return " ".join(remove_markup(text).split())
