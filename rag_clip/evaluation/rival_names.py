"""Candidate names of further classes, from a word list, a label file, or frequent phrases of captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import polars as pl
import pyarrow as pa
import torch
from torch.nn import functional

from rag_clip.captions.sources.finding import find_sources, read_source
from rag_clip.captions.sources.txt_kinds import find_txt_kind
from rag_clip.classifiers.novelty import MOST_NEGATIVES
from rag_clip.corpus.phrases import frequent_phrases
from rag_clip.data import LabelSet
from rag_clip.files.identity import hash_facts
from rag_clip.files.labels import read_labels
from rag_clip.files.locations import shown
from rag_clip.files.reading import read_schema
from rag_clip.files.regular import is_regular, open_regular
from rag_clip.progress import Progress, Report, silent
from rag_clip.prompts.knowledge.names import folded, number_forms
from rag_clip.prompts.mentions import Mentions
from rag_clip.prompts.templates import fill
from rag_clip.protocols import Encoder
from rag_clip.store import Location, open_store
from rag_clip.words import spoken, words_of

PHRASES = 20_000
CAPTIONS_AT_ONCE = 100_000
NAMES_AT_ONCE = 8192
LARGE_BYTES = 16 << 20
LABEL_SETS = 32  # kept at once: an open world is measured on ten in turn


@dataclass(frozen=True, slots=True)
class Candidates:
    """Distinct names that could be classes too, and the `place` that they were read from."""

    place: str
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that identify the names."""
        return hash_facts(self.names)


@dataclass(frozen=True, slots=True)
class Rivals:
    """The candidates that may be added to some classes: their rows, and the class whose name each contains, or ''."""

    rows: tuple[int, ...]
    speaks: tuple[str, ...]


@lru_cache(maxsize=LABEL_SETS)
def rivals_of(labels: LabelSet, candidates: Candidates) -> Rivals:
    """Return the candidates except names and synonyms of the classes, in any case, accents or number.

    Candidates that contain the names of several classes are left out too. One that contains the name of one class, such
    as "pink flamingo" for "flamingo", is kept with that class in `speaks`. Raises ValueError if no candidate is left.
    """
    spoken = (folded(name) for group in (labels.names, *labels.synonyms) for name in group)
    taken = {form for name in spoken for form in number_forms(name)}
    mentions = Mentions(labels)
    mentioned = [
        (row, tuple(mentions.names(name))) for row, name in enumerate(candidates.names) if folded(name) not in taken
    ]
    kept = [(row, "".join(classes)) for row, classes in mentioned if len(classes) < 2]
    if not kept:
        raise ValueError(f"{candidates.place} has no names except those of the classes; give others")
    rows, speaks = zip(*kept, strict=True)
    return Rivals(rows, speaks)


@lru_cache(maxsize=LABEL_SETS)
def negatives_of(labels: LabelSet, candidates: Candidates, *, most: int = MOST_NEGATIVES) -> tuple[int, ...]:
    """Return the rows of the first `most` candidates that share no name with the classes.

    None of them is or holds a name or synonym of a class, or is held by one, such as "golden" by "golden retriever".
    Raises ValueError if there is none.
    """
    rivals = rivals_of(labels, candidates)
    spoken_names = [words_of(spoken(name)) for group in (labels.names, *labels.synonyms) for name in group]
    parts = {
        tuple(words[start:end])
        for words in spoken_names
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    }
    free = (row for row, holds in zip(rivals.rows, rivals.speaks, strict=True) if not holds)
    rows = tuple(islice((row for row in free if tuple(words_of(candidates.names[row])) not in parts), most))
    if not rows:
        raise ValueError(f"every name of {candidates.place} shares words with the classes; give names of other things")
    return rows


def with_synonyms(labels: LabelSet, other: LabelSet) -> LabelSet:
    """Return the classes with the synonyms of another label set of the same classes added."""
    more = dict(zip(other.names, other.synonyms, strict=True))
    columns = zip(labels.names, labels.synonyms, strict=True)
    return replace(labels, synonyms=tuple(tuple(dict.fromkeys([*own, *more[name]])) for name, own in columns))


def read_candidates(
    place: str | Path, *, phrases: int = PHRASES, large_bytes: int = LARGE_BYTES, report: Report = silent
) -> Candidates:
    """Read names: one a line of a .txt file, those of a .json, .toml or .parquet label file, or phrases of captions.

    Captions lie in a .parquet file without a column `name`, in a .json file that is no label file, in any other file
    that `rag-clip index` reads, or in an index: a folder, or the URL of a server. Their `phrases` most frequent phrases
    are the names (see frequent_phrases). A .json file of more than `large_bytes` is searched for captions before it is
    held in memory.
    Names that differ in case, accents and punctuation only come once. Raises ValueError for a place without a name,
    and FileNotFoundError for a missing one.
    """
    names = distinct(_read(str(place), phrases, large_bytes, report))
    if not names:
        raise ValueError(f"{shown(place)} has no names; give a word list, a label file, captions, or an index")
    return Candidates(shown(place), names)


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that have a word, without those that differ from one before in case and accents only."""
    found = dict[str, str]()
    for name in names:
        if words_of(name):
            found.setdefault(folded(name), name)
    return tuple(found.values())


class CandidateTexts:
    """Encodes candidates in templates, once for each set of templates."""

    def __init__(self, candidates: Candidates, encoder: Encoder, *, report: Report = silent) -> None:
        self.candidates = candidates
        self._encoder, self._report = encoder, report
        self._weights: dict[tuple[str, ...], torch.Tensor] = {}

    def weights(self, templates: tuple[str, ...]) -> torch.Tensor:
        """Return unit rows [v, d] of the v candidates: the normalised mean over templates, as for class weights."""
        if templates not in self._weights:
            self._weights[templates] = self._encode(templates)
        return self._weights[templates]

    @torch.no_grad()
    def _encode(self, templates: Sequence[str]) -> torch.Tensor:
        names = self.candidates.names
        advance = Progress(report=self._report).counting("candidates", len(names) * len(templates), unit="texts")
        parts = []
        for start in range(0, len(names), NAMES_AT_ONCE):
            batch = names[start : start + NAMES_AT_ONCE]
            total = torch.zeros(len(batch), self._encoder.dim, device=self._encoder.device)  # [b, d]
            for template in templates:
                total += self._encoder.encode_text([fill(template, name) for name in batch]).float()
                advance(len(batch))
            parts.append(functional.normalize(total, dim=1))
        return torch.cat(parts)


def _read(place: str, phrases: int, large_bytes: int, report: Report) -> Iterable[str]:
    path = Path(place)
    suffix = path.suffix.lower()
    if Location(place).is_server or path.is_dir():
        return frequent_phrases(_stored_captions(place, report), most=phrases)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no file {place}; give a word list, a label file, captions, or an index")
    if suffix == ".txt" and _holds_lines(path):
        return _read_lines(path)
    if suffix == ".json":
        return _read_json(place, phrases, large_bytes, report)
    if suffix == ".toml" or (suffix == ".parquet" and "name" in _columns(path)):
        return read_labels(path).names
    return frequent_phrases(_filed_captions(place, report), most=phrases)


def _read_json(place: str, phrases: int, large_bytes: int, report: Report) -> Iterable[str]:
    """Read names, or phrases of captions; a large file is tried as captions first, since labels load it as a whole."""
    large = Path(place).stat().st_size > large_bytes
    try:
        if not large:
            return read_labels(place).names
        find_sources([place])
    except ValueError as error:
        if large:
            return read_labels(place).names
        try:
            find_sources([place])
        except (ValueError, OSError):
            raise error from None
    return frequent_phrases(_filed_captions(place, report), most=phrases)


def _holds_lines(path: Path) -> bool:
    with open_regular(path) as stream:
        try:
            return find_txt_kind(stream) == "txt"
        except ValueError as error:
            raise ValueError(f"{path} is not a word list: {error}") from error


def _columns(path: Path) -> list[str]:
    try:
        return list(read_schema(path).names)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error


def _stored_captions(location: str, report: Report) -> Iterator[pl.Series]:
    with open_store(location) as store:
        yield from _gathered(
            store.scroll(), Progress(report=report).counting("count phrases", store.count(), unit="captions")
        )


def _filed_captions(place: str, report: Report) -> Iterator[pl.Series]:
    batches = (batch for source in find_sources([place]) for batch in read_source(source))
    yield from _gathered(batches, Progress(report=report).counting("count phrases", unit="captions"))


def _gathered(batches: Iterable[pa.RecordBatch], advance: Callable[[int], None]) -> Iterator[pl.Series]:
    texts: list[pa.Array] = []
    for batch in batches:
        texts.append(batch.column("text"))
        advance(batch.num_rows)
        if sum(map(len, texts)) >= CAPTIONS_AT_ONCE:
            yield _series(texts)
            texts = []
    if texts:
        yield _series(texts)


def _series(arrays: Sequence[pa.Array]) -> pl.Series:
    return pl.Series(pa.chunked_array(arrays)).cast(pl.String)
