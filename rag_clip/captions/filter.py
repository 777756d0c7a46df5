"""The cleaning of a corpus: rules on single rows, and rules that first need counts of the whole corpus.

An index records how its corpus was cleaned, and a later build must use the same settings (`check_cleaning`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rag_clip.captions.sources.files import SourceError
from rag_clip.captions.sources.finding import SourceFile, read_source, unreadable
from rag_clip.corpus.cleaning import CleaningSettings, clean_with, row_rules
from rag_clip.corpus.counts.statistics import CorpusCounts, count_corpus
from rag_clip.corpus.steps import Step, chain
from rag_clip.files.identity import hash_facts
from rag_clip.files.lock import locked
from rag_clip.progress import Progress
from rag_clip.store import Store

CORPUS_NOTE = "corpus"


@dataclass(frozen=True, slots=True)
class Filter:
    """A cleaning `step` with its `settings`.

    `key` is a hash of everything that its decisions depend on: the settings and, with rules on the whole corpus, all
    files of the corpus.
    """

    step: Step
    key: str
    settings: CleaningSettings


def prepare_filter(
    settings: CleaningSettings, sources: Sequence[SourceFile], folder: Path, progress: Progress
) -> Filter:
    """Return the cleaning of a corpus; if it needs counts, count the corpus first, into `folder`.

    settings: the cleaning settings.
    sources: the files of the corpus.
    folder: where counts are kept. Processes that share it count only once; the others wait.
    progress: collects seconds per stage, and passes progress events on.
    """
    key = filter_key(settings, sources)
    if not settings.needs_counts:
        return Filter(chain([unreadable, clean_with(settings)]), key, settings)
    sidecar = folder / f"counts-{key}"
    with locked(folder / f"counts-{key}.lock", doing=f"count the corpus into {folder}", wait=True):
        if not (sidecar / "counts.json").exists():
            rules = chain([unreadable, row_rules(settings)])
            with progress.stage("count"):
                count_corpus(
                    _tables(sources), sidecar, rules=rules, near=settings.near_duplicates, report=progress.report
                )
    counts = CorpusCounts(sidecar)
    return Filter(chain([unreadable, clean_with(settings, counts=counts)]), key, settings)


def filter_key(settings: CleaningSettings, sources: Sequence[SourceFile]) -> str:
    """Return a hash of everything that decides which rows are kept, sixteen hexadecimal digits."""
    corpus = sorted([source.address, source.identity] for source in sources) if settings.needs_counts else []
    columns = [asdict(source.columns) for source in sources] if settings.needs_counts else []
    parts = [settings.model_dump(mode="json"), corpus, columns]
    return hash_facts(parts)


def with_file(rows: pa.Table, source: SourceFile) -> pa.Table:
    """Return the rows with column `file`, which together with `row` identifies a row of the corpus."""
    return rows.append_column("file", pa.repeat(pa.scalar(source.address), rows.num_rows))


def _tables(sources: Sequence[SourceFile]) -> Iterator[pa.Table]:
    for source in sources:
        try:
            for batch in read_source(source):
                yield with_file(pa.Table.from_batches([batch]), source)
        except SourceError:  # reported when the file is embedded; readable rows are counted
            continue


def check_cleaning(store: Store, cleaning: CleaningSettings) -> None:
    """Raise ValueError, naming the differences, unless the captions of the index were cleaned with the same settings.

    Otherwise captions that only the new settings drop would stay in the index.
    """
    noted = store.card.notes.get(CORPUS_NOTE, {}).get("cleaning")
    if noted is None:
        return
    before, now = plain(CleaningSettings()) | noted, plain(cleaning)
    differing = [name for name in before | now if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in differing)
        raise ValueError(
            f"the captions of the index at {store.location} were cleaned with other settings ({changes}); those that "
            "only these settings drop would stay in it: build another index, or clean as before"
        )


def plain(cleaning: CleaningSettings) -> dict[str, Any]:
    """Return settings as plain values, as recorded in an index."""
    return cleaning.model_dump(mode="json")
