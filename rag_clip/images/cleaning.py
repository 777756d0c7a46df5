"""Choose which embedded pairs go into an index: those without an error whose caption the cleaning keeps.

Shards contain all embedded pairs, before cleaning, so other cleaning settings need no second embedding. An image is
dropped together with its caption, as in ALIGN and Wukong.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rag_clip.captions.pieces import sample_drops
from rag_clip.corpus.cleaning import CleaningSettings, clean_with, row_rules
from rag_clip.corpus.counts.statistics import count_corpus
from rag_clip.corpus.steps import Step
from rag_clip.files.atomic import partial_of, replacing
from rag_clip.images.shards import PairShards
from rag_clip.progress import Report

READ = ("key", "text", "url", "sha256", "width", "height", "error")
DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class CleanPairs:
    """The pairs to index: the rows of each of `parts` that `kept`, bool [rows], marks; `dropped` counts reasons.

    Rows with an error are neither kept nor counted.
    """

    parts: tuple[PairShards, ...]
    kept: tuple[np.ndarray, ...]
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return sum(int(mask.sum()) for mask in self.kept)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.parts[0].dim

    def read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the pairs, shard by shard."""
        for part, mask in zip(self.parts, self.kept, strict=True):
            start = 0
            for table in part.read(columns):
                yield table.filter(pa.array(mask[start : start + len(table)]))
                start += len(table)


def check_pair_cleaning(settings: CleaningSettings) -> None:
    """Raise ValueError for rules that need a column which pairs do not have."""
    if settings.languages:
        raise ValueError(
            f"`languages` is {', '.join(settings.languages)}, but pairs record no language; leave out `languages`"
        )


def clean_pairs(parts: Sequence[PairShards], settings: CleaningSettings, folder: Path, report: Report) -> CleanPairs:
    """Clean the pairs of all files; images are the same if their SHA-256 is.

    Writes a sample of at most 20 dropped rows per reason and shard into `folder`/dropped, one file for each of `parts`.
    Rules over the whole corpus count it in a folder that is deleted at the end, or by the next call after a kill.
    """
    space = partial_of(folder / "counts")
    try:
        step = _prepare(parts, settings, space, report)
        cleaned = [_clean_part(part, step, folder / DROPPED) for part in parts]
    finally:
        shutil.rmtree(space, ignore_errors=True)
    dropped = sum((counts for _, counts in cleaned), Counter[str]())
    return CleanPairs(tuple(parts), tuple(mask for mask, _ in cleaned), dict(dropped))


def _prepare(parts: Sequence[PairShards], settings: CleaningSettings, sidecar: Path, report: Report) -> Step:
    if not settings.needs_counts:
        return clean_with(settings)
    records = (table for part in parts for table in _records(part))
    counts = count_corpus(records, sidecar, rules=row_rules(settings), near=settings.near_duplicates, report=report)
    return clean_with(settings, counts=counts)


def _clean_part(part: PairShards, step: Step, folder: Path) -> tuple[np.ndarray, Counter[str]]:
    """Return which rows of a file are kept, and the count of each drop reason; write a sample of dropped rows."""
    mask, counts, samples = np.zeros(part.count_pairs(), bool), Counter[str](), []
    for records in _records(part):
        kept = step(records)
        mask[kept.selected["row"].to_numpy()] = True
        counts.update(kept.reason)
        if kept.reason:
            samples.append(sample_drops(kept, part.folder.name))
    target = folder / f"{part.folder.name}.parquet"
    if samples:
        with replacing(target) as partial_file:
            pq.write_table(pa.concat_tables(samples), partial_file, compression="zstd", write_page_checksum=True)
    else:
        target.unlink(missing_ok=True)
    return mask, counts


def _records(part: PairShards) -> Iterator[pa.Table]:
    """Yield the rows without an error as records of a corpus, with the columns `file` and `row`."""
    start = 0
    for table in part.read(READ):
        rows = pa.array(range(start, start + len(table)), pa.int64())
        start += len(table)
        numbered = table.append_column("row", rows).filter(pc.is_null(table["error"])).drop_columns("error")
        if len(numbered):
            yield numbered.append_column("file", pa.repeat(pa.scalar(str(part.path)), len(numbered)))
