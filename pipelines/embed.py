"""The embed stage: read captions, clean them, embed them, and keep them as shards (see captions/shards.py).

A finished shard is not embedded again: an interrupted run continues, and further files add to the folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rag_clip.captions.filter import prepare_filter
from rag_clip.captions.maker import make_shards
from rag_clip.captions.plan import Plan
from rag_clip.captions.shards import Manifest, ShardFolder, next_versions, read_manifests, to_shard_folder
from rag_clip.captions.sources.finding import Columns, SourceFile, find_sources
from rag_clip.corpus.cleaning import CleaningSettings, load_cleaning
from rag_clip.display import counted
from rag_clip.files.lock import locked
from rag_clip.files.outputs import check_outputs
from rag_clip.files.shards import Shards
from rag_clip.progress import Progress, ProgressEvent, Report, silent
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder

from .running import Running

PARTS_PER_WORKER = 4


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What the shards of the files contain, read = kept + repeated + sum(dropped), and what this run did.

    shards, keys: the folder of the shards, and their names.
    read, kept: rows of the files, and captions in the shards.
    repeated: rows with the source and text of an earlier row.
    dropped: rows that cleaning dropped, by reason.
    embedded, written: captions and shards of this run.
    finished: shards of earlier runs.
    failed, failures: files that could not be read to the end: their number, and the reasons.
    seconds, bottleneck: seconds per stage, which overlap in time, and the slowest stage.
    """

    shards: str
    keys: tuple[str, ...]
    read: int
    kept: int
    repeated: int
    dropped: Mapping[str, int]
    embedded: int
    written: int
    finished: int
    failed: int
    failures: tuple[str, ...]
    seconds: Mapping[str, float]
    bottleneck: str

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{counted(self.kept, 'caption')} in {self.shards}: {self.embedded} embedded in "
            f"{counted(self.written, 'shard')}, {self.finished} there already, {self.repeated} repeated, "
            f"{sum(self.dropped.values())} dropped of {self.read} read"
        )

    __repr__ = __str__


@on_screen.job()
def embed_captions(
    paths: Sequence[str | Path],
    *,
    shards: ShardFolder | str | Path,
    encoder: Encoder,
    columns: Columns | None = None,
    cleaning: CleaningSettings | None = None,
    running: Running = Running(),  # noqa: B008
) -> EmbedSummary:
    """Embed the captions of files into a folder, except for the shards that exist.

    paths: files or folders of captions.
    shards: the folder, or a `ShardFolder` that also says how large shards are, and which part of them is made.
    encoder: encodes the captions.
    columns: columns that are not to be recognised by their names.
    cleaning: by default the preset `default` of index/cleaning.toml. Rules over the whole corpus (duplicates, rare
        words) read it once more before; with them, one more file means that every shard is made again.
    running: `force` and progress.

    Raises ValueError as `find_sources`; BusyError if another process embeds into the folder; OSError if the disk is
    full. Finished shards stay.
    """
    shards = to_shard_folder(shards)
    check_outputs([(shards.place, "shards")], inputs=[paths], force=running.force)
    sources = find_sources(paths, columns=columns or Columns())
    return embed_sources(sources, shards=shards, encoder=encoder, cleaning=cleaning or load_cleaning(), running=running)


def embed_sources(
    sources: Sequence[SourceFile],
    *,
    shards: ShardFolder,
    encoder: Encoder,
    cleaning: CleaningSettings,
    running: Running,
) -> EmbedSummary:
    """Embed the captions of source files, as `embed_captions` does."""
    if running.elsewhere is None:
        return _embed_here(sources, shards=shards, encoder=encoder, cleaning=cleaning, report=running.report)
    if shards.part != (0, 1):
        raise ValueError(f"workers embed all parts of the shards; leave out the part {shards.part}")
    parts = range(PARTS_PER_WORKER * running.elsewhere.count)
    given = (sources, replace(shards, path=str(shards.place)), cleaning, len(parts))
    found: list[EmbedSummary] = []
    for summary in running.elsewhere.run(_embed_part, encoder=encoder, given=given, units=parts):
        found.append(summary)
        running.report(ProgressEvent("embed", len(found), len(parts), "parts"))
    embedded = _add_up(found)
    if not set(embedded.keys) <= {manifest.key for manifest in read_manifests(shards.place)}:
        raise ValueError(f"the shards of the workers are not in {shards.place}; give a folder that every node sees")
    return embedded


def _embed_here(
    sources: Sequence[SourceFile],
    *,
    shards: ShardFolder,
    encoder: Encoder,
    cleaning: CleaningSettings,
    report: Report = silent,
) -> EmbedSummary:
    progress, folder, part = Progress(report=report), shards.place, shards.part
    with _holding(folder, part):
        rules = prepare_filter(cleaning, sources, folder, progress)
        there = {manifest.key: manifest for manifest in read_manifests(folder)}
        plan = Plan(rules.key, encoder.fingerprint, shards, there)
        made: dict[str, Manifest] = {}
        done, total = sum(manifest.rows for manifest in plan.select(sources, there)), _total(sources, part)
        for manifest in make_shards(
            plan.missing(sources),
            rules,
            encoder,
            folder,
            versions=next_versions(there.values(), sources),
            progress=progress,
            tick=lambda rows: report(ProgressEvent("embed", done + rows, total, "captions")),
        ):
            made[manifest.key] = manifest
    return _summarise(folder, plan.select(sources, {**there, **made}), made, progress)


def _embed_part(
    encoder: Encoder, given: tuple[Sequence[SourceFile], ShardFolder, CleaningSettings, int], part: int
) -> EmbedSummary:
    sources, shards, cleaning, count = given
    return _embed_here(sources, shards=replace(shards, part=(part, count)), encoder=encoder, cleaning=cleaning)


def _add_up(summaries: Sequence[EmbedSummary]) -> EmbedSummary:
    """Return the sum of the summaries of all parts; seconds are summed over the workers."""
    progress, dropped = Progress(), Counter[str]()
    for summary in summaries:
        dropped.update(summary.dropped)
        for name, seconds in summary.seconds.items():
            progress.add(name, seconds)
    sums = {
        field.name: sum(getattr(summary, field.name) for summary in summaries)
        for field in fields(EmbedSummary)
        if field.type == "int"
    }
    return EmbedSummary(
        shards=summaries[0].shards,
        keys=tuple(sorted(key for summary in summaries for key in summary.keys)),
        dropped=dict(dropped),
        failures=tuple(reason for summary in summaries for reason in summary.failures),
        seconds=dict(progress.seconds),
        bottleneck=progress.bottleneck,
        **sums,
    )


@contextmanager
def _holding(folder: Path, part: tuple[int, int]) -> Iterator[None]:
    """Lock the folder; for a part of the corpus, lock that part, and share the folder with the other parts."""
    doing = f"embed into {folder}"
    if part[1] == 1:
        with locked(folder / "lock", doing=doing):
            Shards(folder, "captions").sweep()
            yield
    else:
        own = folder / f"lock-{part[0]}-of-{part[1]}"
        with locked(folder / "lock", doing=doing, shared=True), locked(own, doing=doing):
            yield


def _total(sources: Sequence[SourceFile], part: tuple[int, int]) -> int | None:
    counts = [source.rows for source in sources if source.rows is not None]
    return sum(counts) if len(counts) == len(sources) and part[1] == 1 else None


def _summarise(
    folder: Path, manifests: Sequence[Manifest], made: Mapping[str, Manifest], progress: Progress
) -> EmbedSummary:
    dropped: Counter[str] = Counter()
    for manifest in manifests:
        dropped.update(manifest.dropped)
    failures = tuple(manifest.reason for manifest in manifests if manifest.status == "failed")
    return EmbedSummary(
        shards=str(folder),
        keys=tuple(manifest.key for manifest in manifests),
        read=sum(manifest.rows for manifest in manifests),
        kept=sum(manifest.kept for manifest in manifests),
        repeated=sum(manifest.repeated for manifest in manifests),
        dropped=dict(dropped),
        embedded=sum(manifest.kept for manifest in made.values()),
        written=len(made),
        finished=len(manifests) - len(made),
        failed=len(failures),
        failures=failures,
        seconds=dict(progress.seconds),
        bottleneck=progress.bottleneck,
    )
