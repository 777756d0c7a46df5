"""The load stage: shards into an index. Nothing is embedded, so another graph or compression costs one load.

What has been loaded is recorded for each index and shard, beside the shards; an interrupted load continues with the
shard that it had begun. A caption has the same id each time, so writing it again is harmless.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rag_clip.captions.ahead import ahead
from rag_clip.captions.filter import CORPUS_NOTE, check_cleaning
from rag_clip.captions.shards import GROUP_ROWS, Manifest, newest, read_manifests, read_shard
from rag_clip.corpus.cleaning import CleaningSettings
from rag_clip.display import counted
from rag_clip.files.lock import locked
from rag_clip.files.outputs import check_outputs
from rag_clip.files.settings import check_settings
from rag_clip.progress import Progress, ProgressEvent, Report, silent
from rag_clip.progress_line import on_screen
from rag_clip.store import CollectionSchema, Location, Store, create_store, load_schema

UPSERT_ROWS = 2048  # eight requests to a server, three of them under way at once; a folder's engine cuts them too


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """What a load did.

    location: the index.
    loaded, finished: shards written in this run, and shards that the index already had.
    written, added: captions written, and how many of them were new, measured by the growth of the index (if other
        programs write to it at the same time, their captions are counted too).
    count: captions in the index now.
    failed, failures: files of the corpus that were embedded only in part: their number, and the reasons.
    seconds, bottleneck: seconds per stage, and the slowest stage.
    """

    location: str
    loaded: int
    finished: int
    written: int
    added: int
    count: int
    failed: int
    failures: tuple[str, ...]
    seconds: dict[str, float]
    bottleneck: str

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{counted(self.count, 'caption')} in {self.location}: {self.added} added from "
            f"{counted(self.loaded, 'shard')}, {self.finished} in it already"
        )

    __repr__ = __str__


@on_screen.job()
def load_shards(
    shards: str | Path,
    *,
    index: str | Path,
    schema: CollectionSchema | None = None,
    report: Report = on_screen,
) -> LoadSummary:
    """Write the shards of a folder to an index, made if it does not exist, and optimise it.

    shards: the folder of the shards. If a file of captions changed between runs, the shards of its newest version are
        loaded.
    index: a folder, or the address of a Qdrant server.
    schema: by default index/captions.toml.
    report: called with the progress.

    Loading again writes nothing. The card of the index records how many rows of the corpus were kept and dropped.

    Raises FileNotFoundError for a folder without shards; ValueError for shards of several encoders or cleanings, and
    for an index of another encoder or schema; StoreError if the index is in use, out of space or unreachable,
    BusyError if another process loads the folder into it; OSError for a damaged shard. Finished shards are kept.
    """
    folder = Path(shards)
    check_outputs([(index, "index")], inputs=[folder])
    manifests = newest(read_manifests(folder))
    if not manifests:
        raise FileNotFoundError(f"there are no shards in {folder}; embed captions first")
    check_agreement(folder, manifests)
    first = manifests[0]
    with create_store(index, schema=schema or load_schema(), encoder=first.encoder, dim=first.dim) as store:
        return load_into(store, folder, manifests, report=report)


def check_agreement(folder: Path, manifests: Sequence[Manifest]) -> None:
    """Raise ValueError for shards that do not belong in one index: of several encoders or cleanings."""
    first = manifests[0]
    for manifest in manifests:
        if not manifest.encoder.agrees_with(first.encoder) or manifest.dim != first.dim:
            raise ValueError(
                f"the shards in {folder} were made by two encoders, {first.encoder} and {manifest.encoder}; "
                "keep a folder for each"
            )
        if manifest.settings != first.settings:
            raise ValueError(
                f"the shards in {folder} were cleaned with different settings ({first.key} and {manifest.key}); "
                "keep a folder for each"
            )


def load_into(store: Store, folder: Path, manifests: Sequence[Manifest], *, report: Report = silent) -> LoadSummary:
    """Write shards to an open index and optimise it.

    Raises ValueError, before writing, for shards cleaned with other settings than the captions in the index.
    """
    for cleaning in manifests[:1]:
        check_cleaning(store, _settings(cleaning))
    progress, before = Progress(report=report), store.count()
    record = folder / "loaded" / f"{_name(store)}.txt"
    with locked(record.with_suffix(".lock"), doing=f"load {folder} into {store.location}"):
        with progress.stage("look up"):
            loaded = _loaded(record, store, manifests)
        left = [manifest for manifest in manifests if manifest.key not in loaded]
        with record.open("a", encoding="utf-8") as file:
            written = _load_all(store, folder, left, file, progress)
        with progress.stage("optimise"):
            store.optimise(report)
        _note_corpus(store, _on_record(record, newest(read_manifests(folder))))
    count = store.count()
    added = min(written, count - before)
    failures = tuple(manifest.reason for manifest in manifests if manifest.status == "failed")
    return LoadSummary(
        store.location,
        len(left),
        len(manifests) - len(left),
        written,
        added,
        count,
        len(failures),
        failures,
        dict(progress.seconds),
        progress.bottleneck,
    )


def _settings(manifest: Manifest) -> CleaningSettings:
    try:
        return check_settings(CleaningSettings, manifest.cleaning)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the shard {manifest.key} was cleaned with invalid settings ({reason}); embed its file again"
        ) from None


def _name(store: Store) -> str:
    """Return a name of this index; a later index in the same place has another."""
    return hashlib.sha256(f"{Location(store.location).absolute} {store.card.created}".encode()).hexdigest()[:16]


def _loaded(record: Path, store: Store, manifests: Sequence[Manifest]) -> Collection[str]:
    """Return the recorded keys whose probe captions the index contains; the index may be older than the record."""
    on_record = _on_record(record, manifests)
    found = {hit.id for hit in store.fetch([probe for manifest in on_record for probe in manifest.probes])}
    return {manifest.key for manifest in on_record if found.issuperset(manifest.probes)}


def _on_record(record: Path, manifests: Sequence[Manifest]) -> list[Manifest]:
    lines = set(record.read_text(encoding="utf-8").splitlines()) if record.exists() else set()
    return [manifest for manifest in manifests if _line(manifest) in lines]


def _note_corpus(store: Store, manifests: Sequence[Manifest]) -> None:
    """Record in the index how many rows of how many files became captions, and why the others did not."""
    if not manifests:
        return
    facts = {
        "files": len({manifest.url for manifest in manifests}),
        "files_in_part": sum(manifest.status == "failed" for manifest in manifests),
        "shards": len(manifests),
        "read": sum(manifest.rows for manifest in manifests),
        "dropped": dict(sum((Counter(manifest.dropped) for manifest in manifests), Counter())),
        "repeated": sum(manifest.repeated for manifest in manifests),
        "kept": sum(manifest.kept for manifest in manifests),
        "cleaning": dict(manifests[-1].cleaning),
    }
    noted = store.card.notes.get(CORPUS_NOTE, {})
    if {name: value for name, value in noted.items() if name != "date"} != facts:
        store.note(CORPUS_NOTE, facts)


def _line(manifest: Manifest) -> str:
    """Return a line that identifies a shard and its state; an incomplete shard may be completed later."""
    return f"{manifest.key} {manifest.rows} {manifest.kept} {manifest.status}"


def _load_all(store: Store, folder: Path, manifests: Sequence[Manifest], record: IO[str], progress: Progress) -> int:
    written, total = 0, sum(manifest.kept for manifest in manifests)
    for manifest in manifests:
        with ahead(read_shard(folder, manifest, UPSERT_ROWS), depth=GROUP_ROWS // UPSERT_ROWS) as batches:
            while True:
                with progress.stage("read shards"):
                    batch = next(batches, None)
                if batch is None:
                    break
                with progress.stage("write"):
                    store.upsert(batch)
                written += batch.num_rows
                progress.report(ProgressEvent("load", written, total, "captions"))
        record.write(_line(manifest) + "\n")
        record.flush()
    return written
