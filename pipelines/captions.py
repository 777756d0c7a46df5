"""Build a caption index: the embed stage, whose shards are kept, and then the load stage.

An interrupted run continues where it stopped, and embeds nothing twice. With the shards, another graph, compression or
server needs no embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from rag_clip.captions.filter import CORPUS_NOTE, check_cleaning, plain
from rag_clip.captions.shards import ShardFolder, read_manifests, to_shard_folder
from rag_clip.captions.sources.columns import Columns
from rag_clip.captions.sources.files import SourceError
from rag_clip.captions.sources.finding import SourceFile, find_sources, read_source, unreadable
from rag_clip.corpus.cleaning import CleaningSettings, load_cleaning, row_rules
from rag_clip.corpus.steps import Step, chain
from rag_clip.display import counted
from rag_clip.files.outputs import check_outputs, remove_folder
from rag_clip.given import AnyCaptions, AnyEncoder, to_captions, to_encoder
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.store import CollectionSchema, Location, Store, create_store, load_schema

from .embed import EmbedSummary, embed_sources
from .load import LoadSummary, load_into
from .running import Running


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What `build_index` did: read = kept + sum(dropped), kept = added + repeated + already_there.

    location: the index.
    read, kept: rows of the files, and rows that cleaning kept.
    dropped: rows that cleaning dropped, by reason.
    added: captions that are new in the index.
    repeated: rows with the source and text of an earlier row. In an index that was not empty, rows of other shards
        count as `already_there`.
    already_there: captions that were in the index before.
    count: captions in the index now.
    seconds, bottleneck: seconds per stage, which overlap in time, and the slowest stage.
    embedded, shards: captions embedded in this run, and the folder of the shards.
    failed, failures: files that could not be read to the end: their number, and the reasons.
    """

    location: str
    read: int
    kept: int
    dropped: Mapping[str, int]
    added: int
    repeated: int
    already_there: int
    count: int
    seconds: Mapping[str, float]
    bottleneck: str
    embedded: int
    shards: str
    failed: int
    failures: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{counted(self.count, 'caption')} in {self.location}: {self.added} added, "
            f"{f'{self.repeated} repeated, ' if self.repeated else ''}"
            f"{f'{self.already_there} already there, ' if self.already_there else ''}"
            f"{sum(self.dropped.values())} dropped of {self.read} read"
        )

    __repr__ = __str__


@on_screen.job()
def build_index(
    captions: AnyCaptions,
    *,
    index: str | Path,
    encoder: AnyEncoder,
    columns: Columns | str | None = None,
    cleaning: CleaningSettings | None = None,
    schema: CollectionSchema | None = None,
    shards: ShardFolder | str | Path | None = None,
    running: Running = Running(),  # noqa: B008
) -> BuildSummary:
    """Add captions to the index, made if it does not exist, and optimise it.

    captions: paths of files or folders, URLs, a polars or pandas frame, a pyarrow table, or a list of these.
    index: a folder, or the address of a Qdrant server.
    encoder: an encoder or the name of a model.
    columns: the name of the column of captions, or `Columns`; those that are not named are recognised. If there is no
        column of sources, the file's name is the source of its captions, and "frame" that of a frame's.
    cleaning: by default the preset `default` of index/cleaning.toml.
    schema: by default index/captions.toml.
    shards: the folder of the embedded captions, or a `ShardFolder`; by default INDEX.shards beside the index (for a
        server: COLLECTION.shards in the working directory). It takes two bytes per dimension and the text, about
        1.1 kB per caption at 512 dimensions.
    running: `force`, progress, and what encodes in place of this process.

    Raises FileNotFoundError for a missing file; ValueError for files without usable captions, a missing or wrong
    column, and an index of another encoder, schema or cleaning; OSError for a full disk; StoreError if the index or
    the shards are in use, or the server is gone; finished work is kept. Nothing is made if no caption is usable.
    """
    given = to_captions(captions)
    files = [each for each in given if not isinstance(each, pa.Table)]
    columns = Columns(text=columns) if isinstance(columns, str) else columns or Columns()
    schema, cleaning, report = schema or load_schema(), cleaning or load_cleaning(), running.report
    shards = to_shard_folder(shards)
    shards = shards if shards.path is not None else replace(shards, path=default_shards(index, schema))
    folder = shards.place
    if shards.part != (0, 1):
        raise ValueError(f"an index needs all parts of the shards; leave out the part {shards.part}")
    check_outputs([(index, "index"), (folder, "shards")], inputs=files, force=running.force)
    sources = find_sources(given, columns=columns)
    _check_usable(sources, chain([unreadable, row_rules(cleaning)]))
    encoder = to_encoder(encoder)
    with create_store(index, schema=schema, encoder=encoder.fingerprint, dim=encoder.dim) as store:
        check_cleaning(store, cleaning)
        embedded = embed_sources(sources, shards=shards, encoder=encoder, cleaning=cleaning, running=running)
        keys = set(embedded.keys)
        manifests = [manifest for manifest in read_manifests(folder) if manifest.key in keys]
        _note_first(store, embedded, cleaning, files=len(sources))
        loaded = load_into(store, folder, manifests, report=report)
    if not shards.keep:
        remove_folder(folder, "shards")
    return _summarise(embedded, loaded)


def default_shards(index: str | Path, schema: CollectionSchema) -> Path:
    """Return the folder of an index's shards: beside a folder, or in the working directory for a server."""
    location = Location(str(index))
    if location.is_server:
        return Path(f"{location.collection or schema.name}.shards")
    return location.beside(".shards")


def _check_usable(sources: Sequence[SourceFile], step: Step) -> None:
    """Raise ValueError, or the error of a damaged file, if no caption of any file is usable."""
    read, reasons, damage = 0, Counter[str](), None
    for source in sources:
        try:
            for batch in read_source(source):
                kept = step(pa.Table.from_batches([batch]))
                if kept.selected.num_rows:
                    return
                read += batch.num_rows
                reasons.update(kept.reason)
        except SourceError as error:
            damage = error
    if damage is not None:
        raise damage
    found = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "no rows"
    column = sources[0].columns.text
    raise ValueError(
        f"column {column!r} of {counted(len(sources), 'file')} has no usable caption in {counted(read, 'row')} "
        f"({found})"
    )


def _note_first(store: Store, embedded: EmbedSummary, cleaning: CleaningSettings, *, files: int) -> None:
    """Record the cleaning in a new index before its first caption, since an interrupted load leaves captions in it."""
    if CORPUS_NOTE not in store.card.notes:
        facts = {
            "files": files,
            "files_in_part": embedded.failed,
            "shards": len(embedded.keys),
            "read": embedded.read,
            "dropped": dict(embedded.dropped),
            "repeated": embedded.repeated,
            "kept": embedded.kept,
            "cleaning": plain(cleaning),
        }
        store.note(CORPUS_NOTE, facts)


def _summarise(embedded: EmbedSummary, loaded: LoadSummary) -> BuildSummary:
    progress = Progress(dict(embedded.seconds))
    for name, seconds in loaded.seconds.items():
        progress.add(name, seconds)
    kept = embedded.kept + embedded.repeated
    already_there = min(embedded.kept, loaded.count) - loaded.added  # no more than were in the index before
    return BuildSummary(
        location=loaded.location,
        read=embedded.read,
        kept=kept,
        dropped=embedded.dropped,
        added=loaded.added,
        repeated=kept - loaded.added - already_there,
        already_there=already_there,
        count=loaded.count,
        seconds=dict(progress.seconds),
        bottleneck=progress.bottleneck,
        embedded=embedded.embedded,
        shards=embedded.shards,
        failed=embedded.failed,
        failures=embedded.failures,
    )
