"""The cleaning of a corpus, made ready: rules of a row alone, and rules that need the whole corpus counted first.

An index notes how its corpus was cleaned, and a later build must agree with it (`check_cleaning`).
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
from rag_clip.progress import Report, StageClock
from rag_clip.store import Store

CORPUS_NOTE = "corpus"


@dataclass(frozen=True, slots=True)
class Filter:
    """A cleaning `step`; `key` hashes all that decides what it keeps of a row: the settings and, with rules over the
    whole corpus, every file of the corpus."""

    step: Step
    key: str
    settings: CleaningSettings


def prepare_filter(
    settings: CleaningSettings, sources: Sequence[SourceFile], folder: Path, clock: StageClock, report: Report
) -> Filter:
    """Build the cleaning of a corpus; where it needs counts, the corpus is read once and they are kept in `folder`.

    Processes that share the folder count once: the others wait.
    """
    key = filter_key(settings, sources)
    if not settings.needs_counts:
        return Filter(chain([unreadable, clean_with(settings)]), key, settings)
    sidecar = folder / f"counts-{key}"
    with locked(folder / f"counts-{key}.lock", doing=f"count the corpus into {folder}", wait=True):
        if not (sidecar / "counts.json").exists():
            rules = chain([unreadable, row_rules(settings)])
            with clock.stage("count"):
                count_corpus(_tables(sources), sidecar, rules=rules, near=settings.near_duplicates, report=report)
    counts = CorpusCounts(sidecar)
    return Filter(chain([unreadable, clean_with(settings, counts=counts)]), key, settings)


def filter_key(settings: CleaningSettings, sources: Sequence[SourceFile]) -> str:
    """Hash what decides which rows are kept; sixteen hexadecimal digits."""
    corpus = sorted([source.address, source.identity] for source in sources) if settings.needs_counts else []
    columns = [asdict(source.columns) for source in sources] if settings.needs_counts else []
    parts = [settings.model_dump(mode="json"), corpus, columns]
    return hash_facts(parts)


def with_file(rows: pa.Table, source: SourceFile) -> pa.Table:
    """Add the column `file`, which with `row` tells the place of a row in the corpus."""
    return rows.append_column("file", pa.repeat(pa.scalar(source.address), rows.num_rows))


def _tables(sources: Sequence[SourceFile]) -> Iterator[pa.Table]:
    for source in sources:
        try:
            for batch in read_source(source):
                yield with_file(pa.Table.from_batches([batch]), source)
        except SourceError:  # told when the file is embedded; what can be read counts
            continue


def check_cleaning(store: Store, cleaning: CleaningSettings) -> None:
    """Refuse to add to an index that was cleaned in another way: what only these settings drop would stay in it.

    Raises ValueError naming the settings that differ.
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
    """Return settings as an index notes them."""
    return cleaning.model_dump(mode="json")
