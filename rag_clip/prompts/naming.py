"""Synonyms of the classes, from the sources that a recipe names, counted in the captions of an index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from rag_clip.corpus.phrases import phrase_counts
from rag_clip.data import LabelSet
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.prompts.knowledge.candidates import gather_candidates
from rag_clip.prompts.knowledge.names import match_names
from rag_clip.prompts.knowledge.synonym_files import read_frequencies, read_synonyms
from rag_clip.prompts.knowledge.wordnet import read_wordnet
from rag_clip.prompts.recipe import Synonyms
from rag_clip.prompts.synonyms import SynonymReport, choose_synonyms, frequent_names, names_to_count
from rag_clip.protocols import Encoder
from rag_clip.store import Store

CAPTIONS_AT_ONCE = 100_000
INSTALLED = "installed"


@dataclass(frozen=True, slots=True)
class Named:
    """`report`: the names considered; `labels`: with the synonyms kept; `notes`: what a user should check."""

    report: SynonymReport
    labels: LabelSet
    notes: tuple[str, ...]


def name_classes(
    labels: LabelSet, choice: Synonyms, *, encoder: Encoder, store: Store, report: Report = silent
) -> Named:
    """Gather candidate names, count them in every caption of the store, and drop names that belong to another class.

    For classes with frequencies in a REAL file, the counts are those of the first such file.
    Raises ValueError for files in an unknown format, and FileNotFoundError for a missing WordNet.
    """
    files = {path.name: read_synonyms(path) for path in choice.files}
    wordnet = None
    if choice.wordnet:
        wordnet = read_wordnet(None if choice.wordnet == INSTALLED else choice.wordnet)
    senses = wordnet.senses if wordnet else None
    candidates = gather_candidates(labels, files=files, senses=senses)
    counts = phrase_counts(_tables(store, report), names_to_count(labels, candidates))
    known = _frequencies(labels, choice)
    chosen = choose_synonyms(labels, candidates, counts, encoder=encoder, frequencies=known, senses=senses)
    synonyms = tuple(
        tuple(name.name for name in chosen.kept(row) if name.source != "label") for row in range(len(labels))
    )
    return Named(chosen, replace(labels, synonyms=synonyms), tuple(_notes(labels, choice, chosen, known)))


def _frequencies(labels: LabelSet, choice: Synonyms) -> dict[int, Mapping[str, int]]:
    found: dict[int, Mapping[str, int]] = {}
    for path in choice.files:
        by_name = read_frequencies(path)
        for key, row in match_names(labels, by_name).rows.items():
            found.setdefault(row, by_name[key])
    return found


def _tables(store: Store, report: Report) -> Iterator[pa.Table]:
    batches: list[pa.RecordBatch] = []
    done, total = 0, store.count()
    for batch in store.scroll():
        batches.append(batch)
        done += batch.num_rows
        if done % CAPTIONS_AT_ONCE < batch.num_rows:
            yield pa.Table.from_batches(batches)
            batches = []
            report(ProgressEvent("count names", done, total, "captions"))
    if batches:
        yield pa.Table.from_batches(batches)


def _notes(
    labels: LabelSet, choice: Synonyms, chosen: SynonymReport, known: Mapping[int, Mapping[str, int]]
) -> Iterator[str]:
    if choice.use == "frequent":
        for row, (name, frequent) in enumerate(zip(labels.names, frequent_names(chosen), strict=True)):
            if name != frequent:
                corpus = "the corpus of its synonym file" if row in known else "the corpus"
                yield f"{name!r} is called {frequent!r}, as {corpus} says most often"
    for each in chosen.ambiguous:
        yield f"{each.name!r} of class {each.label!r} has {len(each.meanings)} meanings: {'; '.join(each.meanings[:3])}"
