"""The samples of webdataset tars as rows: the fields of KEY.json, and the text of KEY.txt as column `txt`.

Images are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from rag_clip.captions.sources.formats import OVERSIZED, Row, parse_json
from rag_clip.files.webdataset import Member, Sample, dotted_names, read_samples

UNSAFE_NAME = "unsafe_name"
DOTTED_NAME = "dotted_name"
IMAGES = {"jpg", "jpeg", "png", "webp"}


def tar_rows(stream: BinaryIO) -> Iterator[Row]:
    """Yield a row per sample: consecutive members with the same key, the name up to the first dot after the folder.

    A sample with an absolute name or with `..` becomes the reason `unsafe_name`. Samples whose names have further dots,
    so that several would share one key, each become the reason `dotted_name`. Links and devices are skipped. Raises
    OSError or tarfile.TarError where the archive is damaged or truncated.
    """
    for sample in read_samples(stream, texts=True):
        if sample.whole:
            yield from _rows(sample)


def _rows(sample: Sample) -> list[Row]:
    members = [member for member in sample.members if member.regular]
    row: Row = {}
    for member in members:
        row = _with_member(row, member)
    if isinstance(row, dict) and (names := dotted_names(sample.key, [member.ending for member in members])):
        return [DOTTED_NAME] * len(names)
    return [row] if members else []


def _with_member(row: Row, member: Member) -> Row:
    if isinstance(row, str):
        return row
    if member.leads_out:
        return UNSAFE_NAME
    if member.is_text and member.content is None:
        return OVERSIZED
    if member.ending == "json" and member.content is not None:
        fields = parse_json(member.content)
        return fields if isinstance(fields, str) else {**fields, **row}
    return {**row, member.ending: b"" if member.ending in IMAGES else member.content}
