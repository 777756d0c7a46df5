"""Find names for images in an index of captions: without labels, or beside the classes of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from rag_clip.classifiers.zero_shot import zero_shots
from rag_clip.corpus.counts.tokens import spoken
from rag_clip.corpus.phrases import caption_counts, joined
from rag_clip.data import LabelSet, Prompts, check_same_encoder
from rag_clip.display import counted, html_table
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import holding
from rag_clip.given import AnyEncoder, AnyImages, AnyIndex, index_place, opened, to_encoder, to_images, to_texts
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.prompts.knowledge.names import folded, number_forms
from rag_clip.refinement.discovery import EXAMPLES, NEAREST, Name, Neighbours, Present, find_names
from rag_clip.store import Store

from .predictions import read_rejected
from .running import Running
from .unlabelled import Unlabelled, sample_sources

SEARCHED_AT_ONCE = 256
COUNTED_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Naming:
    """What is found: names that each explain `least` images of the sample or more, at most `most` of them.

    sample: how many images are compared; all of a smaller file.

    Raises ValueError for values below 1.
    """

    least: float = 4.0
    most: int = 100
    sample: int = 5_000

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, value in asdict(self).items():
            if not value >= 1:
                raise ValueError(f"{name} is {value}; give at least 1")


@dataclass(frozen=True, slots=True)
class Discovered:
    """A name, and what speaks for it.

    name: in lower case, as captions have it.
    images: how many images of the file it is expected to explain.
    rows: rows of the images that it explains best, from 0, as `explain --row` counts them.
    captions: captions that hold it, the nearest to these images first.
    also: other phrases of their captions.
    takes: by class of the prompts, how many of its images of the file would otherwise be given to that class.
    """

    name: str
    images: float
    rows: tuple[int, ...]
    captions: tuple[str, ...]
    also: tuple[str, ...]
    takes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class DiscoverSummary:
    """What `discover` did.

    output: the label file; None without one.
    rows, failed: images of the file, and those that could not be read.
    rejected: images that predictions rejected, for which names are; None for all images.
    sampled: how many were compared.
    names: what was found, the names of most images first; `labels` are they as a label set.
    left: how many more names were found than were asked for.
    seconds, bottleneck: seconds per stage, and the slowest stage.
    """

    output: Path | None
    rows: int
    failed: int
    rejected: int | None
    sampled: int
    names: tuple[Discovered, ...]
    left: int
    seconds: Mapping[str, float]
    bottleneck: str

    @property
    def labels(self) -> LabelSet:
        """The names as classes; raises ValueError if none was found."""
        return LabelSet(tuple(each.name for each in self.names))

    def __str__(self) -> str:
        """Say it in one line."""
        more = f" (and {self.left} of fewer images)" if self.left else ""
        place = "" if self.output is None else f"{self.output}: "
        what = counted(self.rows, "image")
        if self.rejected is not None:
            what = f"{counted(self.rejected, 'rejected image')} of {self.rows}"
        return f"{place}{counted(len(self.names), 'name')}{more} for {what}, {self.failed} failed"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = ({"name": one.name, "images": round(one.images), "captions": one.captions[:1]} for one in self.names)
        return html_table(str(self), rows)


@on_screen.job()
def discover(
    images: AnyImages | Unlabelled,
    *,
    index: AnyIndex,
    output: str | Path | None = None,
    encoder: AnyEncoder | None = None,
    prompts: Prompts | str | Path | None = None,
    predictions: str | Path | None = None,
    naming: Naming = Naming(),
    running: Running = Running(),  # noqa: B008
) -> DiscoverSummary:
    """Find names for images in the captions nearest to them (see `refinement.discovery`).

    images: their labels are not read; `Unlabelled` keeps their features for later runs.
    index: of captions.
    output: a label file .toml, with what speaks for each name as comments.
    encoder: an encoder or the name of a model; by default the one that the index records.
    prompts: classes that are known already, or their file. They keep the images that they explain, and names are found
        for the rest.
    predictions: what `classify` wrote of these images with an open world: names are found for the images that it
        rejected, those without a label or of too much novelty, and for no others.
    naming: how many names are found.
    running: processes, batch size, `force` and progress.

    Raises ValueError for predictions of other images or without a rejected one, for an index without captions or of
    another encoder, for images that cannot be used, and for an `output` that is an input, another program's file
    (without `force`) or not .toml; BusyError if another process writes it.
    """
    progress, report = Progress(report=running.report), running.report
    unlabelled = images if isinstance(images, Unlabelled) else Unlabelled(images)
    place = None if output is None else Path(output)
    if place is not None and place.suffix.lower() != ".toml":
        raise ValueError(f"the output {place} would be TOML; give it the suffix .toml")
    known = None if prompts is None else to_texts(prompts)
    with ExitStack() as stack:
        kept = unlabelled.features_dir
        inputs = [
            index_place(index),
            unlabelled.files,
            predictions,
            prompts if isinstance(prompts, str | Path) else None,
        ]
        stack.enter_context(holding([(place, "discover"), (kept, "features")], inputs=inputs, force=running.force))
        store = stack.enter_context(opened(index))
        encoder = to_encoder(encoder, recorded=asdict(store.card.encoder))
        what, advice = f"the index at {store.location} was built", "use the encoder of the index"
        check_same_encoder(store.card.encoder, encoder.fingerprint, what=what, advice=advice)
        if store.count() == 0:
            raise ValueError(f"the index at {store.location} holds no captions; build it first")
        among = None if predictions is None else _rejected(predictions, unlabelled)
        sources = stack.enter_context(unlabelled.encoded(encoder, running=running, progress=progress))
        sample = sample_sources(sources, encoder, naming.sample, among=among)
        rows, failed = sum(file.rows for file, _ in sources), sum(cache.count_failed() for _, cache in sources)
        if len(sample.pooled) == 0:
            raise ValueError(f"none of {counted(rows, 'image')} could be read; see `classify` for the reasons")
        nearest = nearest_captions(sample.pooled, store, progress)
        with progress.stage("phrases"):
            candidates = nearest.candidates()
        spellings = [] if known is None else spellings_of(known.labels, candidates)
        phrases = list(dict.fromkeys([*candidates, *(phrase for group in spellings for phrase in group)]))
        frequencies = frequencies_of(phrases, store, progress)
        present = None
        if known is not None:
            with progress.stage("prompts"):
                present = Present(zero_shots([known], encoder, report=report)[0].weights, spellings)
        with progress.stage("names"):
            found = find_names(
                sample.pooled, nearest, frequencies, scale=encoder.scale, least=naming.least, present=present
            ).names
        named = rows - failed if among is None else int(among.sum())
        times = named / len(sample.pooled)
        classes = () if known is None else known.labels.names
        names = tuple(_described(name, sample.ids, nearest, classes, times) for name in found[: naming.most])
        if place is not None:
            with replacing(place) as partial:
                partial.write_text(_document(names, rows if among is None else named, classes), encoding="utf-8")
    left = max(0, len(found) - naming.most)
    return DiscoverSummary(
        place,
        rows,
        failed,
        None if among is None else named,
        len(sample.pooled),
        names,
        left,
        dict(progress.seconds),
        progress.bottleneck,
    )


def _rejected(predictions: str | Path, unlabelled: Unlabelled) -> np.ndarray:
    """Return which rows of the images predictions rejected; raises ValueError if they are of others, or none is."""
    images = to_images(unlabelled.images)
    rejected = read_rejected(predictions)[: images.limit]
    rows = sum(file.rows for file in images.open())
    if len(rejected) != rows:
        raise ValueError(
            f"{predictions} has {counted(len(rejected), 'row')}, and there are {counted(rows, 'image')}; "
            "give the images that it was made of"
        )
    if not rejected.any():
        raise ValueError(f"{predictions} rejects none of {counted(rows, 'row')}; classify with --open, or leave it out")
    return rejected


def nearest_captions(images: torch.Tensor, store: Store, progress: Progress) -> Neighbours:
    """Search the captions nearest to each image; where an index has fewer, each image gets all."""
    using, asked = store.card.schema.of_captions, min(NEAREST, store.count())
    texts: dict[str, tuple[int, str]] = {}
    found: list[list[int]] = []
    advance = progress.counting("search", len(images), unit="images")
    for start in range(0, len(images), SEARCHED_AT_ONCE):
        queries = images[start : start + SEARCHED_AT_ONCE].cpu().numpy()
        with progress.stage("search"):
            hits = store.search(vectors=queries, limit=asked, mode="dense", vector=using)
        found += [[texts.setdefault(hit.id, (len(texts), hit.text))[0] for hit in group] for group in hits]
        advance(len(hits))
    with progress.stage("search"):
        vectors = store.vectors(list(texts), vector=using)
    matrix = torch.from_numpy(np.stack([vectors[name] for name in texts]))
    return Neighbours(np.array(found, dtype=np.int64), [text for _, text in texts.values()], matrix)


def spellings_of(labels: LabelSet, candidates: Sequence[str]) -> list[list[str]]:
    """Return the phrases that are the name or a synonym of each class, in any case, accents or number."""
    owners: dict[str, int] = {}
    groups: list[list[str]] = []
    for row, (name, synonyms) in enumerate(zip(labels.names, labels.synonyms, strict=True)):
        groups.append([" ".join(spoken(spelling)) for spelling in (name, *synonyms)])
        for spelling in (name, *synonyms):
            for form in number_forms(folded(spelling)):
                owners.setdefault(form, row)
    for phrase in candidates:
        if (owner := owners.get(folded(phrase))) is not None and phrase not in groups[owner]:
            groups[owner].append(phrase)
    return groups


def frequencies_of(phrases: Sequence[str], store: Store, progress: Progress) -> dict[str, float]:
    """Return the share of the captions of the index that hold each phrase; of one that none holds, as if one did."""
    advance = progress.counting("count", store.count(), unit="captions")

    def texts() -> Iterator[pl.Series]:
        for batch in store.scroll(batch_size=COUNTED_AT_ONCE):
            yield pl.Series(batch.column("text")).cast(pl.String)
            advance(batch.num_rows)

    with progress.stage("count"):
        counts, captions = caption_counts(texts(), phrases)
    return {phrase: max(count, 1) / captions for phrase, count in zip(phrases, counts, strict=True)}


def _described(name: Name, ids: Sequence[str], nearest: Neighbours, classes: Sequence[str], times: float) -> Discovered:
    return Discovered(
        joined([name.phrase])[0],
        name.images * times,
        tuple(int(ids[row]) for row in name.best[:EXAMPLES]),
        tuple(nearest.texts[row] for row in name.captions),
        tuple(joined(name.also)),
        {classes[row]: images * times for row, images in sorted(name.takes.items(), key=lambda pair: -pair[1])},
    )


def _document(names: Sequence[Discovered], rows: int, classes: Sequence[str]) -> str:
    """Return the label file; a comment above each name says what speaks for it."""
    lines = [
        "# made by rag-clip discover",
        f"# Names for {counted(rows, 'image')}: delete what is none, put a better name, and use it as a label file.",
        "labels = [",
    ]
    for one in names:
        lines.append(f"  # about {counted(round(one.images), 'image')}, such as rows {_listed(one.rows)}")
        lines += [f"  # caption: {_line(text)}" for text in one.captions]
        lines += [f"  # also said: {_listed(one.also)}"] if one.also else []
        taken = [f"{round(images)} from {_line(name)}" for name, images in one.takes.items() if round(images)]
        lines += [f"  # would take {_listed(taken[:EXAMPLES])}"] if classes and taken else []
        lines.append(f"  {{ name = {json.dumps(one.name, ensure_ascii=False)} }},")
    return "\n".join([*lines, "]", ""])


def _line(text: str) -> str:
    """Return a text without line breaks and without the characters that TOML comments cannot hold."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
