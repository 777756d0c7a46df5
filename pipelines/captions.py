"""Build a caption index: read Parquet, clean, leave out what is there, embed, and write to Qdrant.

Captions are written batch by batch under ids made from source and text: a run that was cut short goes on where it
stopped, and embeds nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rag_clip.corpus.clean import clean
from rag_clip.progress import Progress, Report, StageClock, silent
from rag_clip.protocols import Encoder
from rag_clip.store import CollectionSchema, Store, caption_id, create_store, load_schema

from .caption_rows import CaptionFile, open_caption_files

BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What `build_index` did: read = kept + sum(dropped), kept = added + already_there.

    `already_there` counts captions that the index held, from an earlier run or from an earlier row with the same
    source and text. `count` is the size of the index now; `seconds` are per stage.
    """

    location: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    added: int
    already_there: int
    count: int
    seconds: Mapping[str, float]
    bottleneck: str


def build_index(
    paths: Sequence[str | Path],
    *,
    index: str | Path,
    encoder: Encoder,
    text_column: str = "caption",
    source_column: str | None = "source",
    schema: CollectionSchema | None = None,
    report: Report = silent,
) -> BuildSummary:
    """Add the captions of Parquet files (or folders of them) to the index, made if it does not exist, and optimise it.

    `index` is a folder or the address of a Qdrant server. The source of a caption is taken from `source_column`, or is
    the file's name where there is none. `schema` defaults to index/captions.toml.

    Raises FileNotFoundError for a missing file; ValueError for files without usable captions, a missing or wrong
    column, and an index of another encoder or schema; OSError for a damaged file; StoreError where the index is in use
    or cannot be written. Nothing is made where no caption is usable.
    """
    files = open_caption_files(paths, text_column=text_column, source_column=source_column)
    schema = schema or load_schema()
    total = sum(file.rows for file in files)
    clock, dropped = StageClock(), Counter[str]()
    read = kept = added = 0
    with ExitStack() as stack:
        store: Store | None = None
        for records in _read(files, clock):
            with clock.stage("clean"):
                cleaned = clean(records)
            read += records.num_rows
            kept += cleaned.selected.num_rows
            dropped.update(cleaned.reason)
            if store is None and cleaned.selected.num_rows:
                store = create_store(index, schema=schema, encoder=encoder.fingerprint, dim=encoder.dim)
                stack.enter_context(store)
            if store is not None:
                added += _add(cleaned.selected, store, encoder, clock)
            report(Progress("index", read, total, "captions"))
        if store is None:
            raise ValueError(_nothing_usable(files, read, dropped))
        with clock.stage("optimise"):
            store.optimise(report)
        count = store.count()
    return BuildSummary(
        str(index), read, kept, dict(dropped), added, kept - added, count, dict(clock.seconds), clock.bottleneck
    )


def _read(files: Sequence[CaptionFile], clock: StageClock) -> Iterator[pa.Table]:
    for file in files:
        batches = file.read(BATCH_ROWS)
        while True:
            with clock.stage("read"):
                records = next(batches, None)
            if records is None:
                break
            yield records


def _add(records: pa.Table, store: Store, encoder: Encoder, clock: StageClock) -> int:
    """Embed and write the captions that the store lacks; return how many."""
    pairs = zip(records.column("source").to_pylist(), records.column("text").to_pylist(), strict=True)
    captions = {caption_id(source, text): (source, text) for source, text in pairs}
    with clock.stage("look up"):
        there = {hit.id for hit in store.fetch(list(captions))}
    new = {name: caption for name, caption in captions.items() if name not in there}
    if not new:
        return 0
    sources, texts = zip(*new.values(), strict=True)
    with clock.stage("embed"):
        vectors = encoder.encode_text(texts).cpu().numpy()
    with clock.stage("write"):
        flat = pa.array(vectors.reshape(-1), pa.float32())
        columns = [
            pa.array(new),
            pa.array(texts),
            pa.array(sources),
            pa.FixedSizeListArray.from_arrays(flat, store.card.dim),
        ]
        store.upsert(pa.record_batch(columns, names=["id", "text", "source", "vector"]))
    return len(new)


def _nothing_usable(files: Sequence[CaptionFile], read: int, dropped: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "no rows"
    return f"column {files[0].text_column!r} of {len(files)} file(s) holds no usable caption in {read} rows ({reasons})"
