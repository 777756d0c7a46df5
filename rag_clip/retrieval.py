"""Evidence for class names: captions that a store holds for each class, as context texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from rag_clip.data import Hit, LabelSet
from rag_clip.progress import Progress, Report, StageClock, silent
from rag_clip.prompts.mixed import Texts
from rag_clip.prompts.retrieved import (
    Keep,
    Rewrite,
    as_written,
    contains_phrase,
    contains_substring,
    contains_token,
    retrieved_texts,
    without_name,
)
from rag_clip.prompts.templates import fill
from rag_clip.protocols import Encoder
from rag_clip.store import Store
from rag_clip.store.filters import Filters

Search = Literal["dense", "lexical", "hybrid"]
Modality = Literal["text", "image"]
FILTERS: Mapping[str, Keep] = {
    "token": contains_token,
    "substring": contains_substring,
    "phrase": contains_phrase,
}
REWRITES: Mapping[str, Rewrite] = {"kept": as_written, "dropped": without_name}
CLASSES_PER_SEARCH = 64


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How captions are found and chosen; weight, limit and query are those of RePE (see prompts.retrieved).

    `candidates` captions are searched per class, of which the first `limit` that pass the filter `keep` share the
    `weight`; class names in them are `kept`, as published, or `dropped`. `dense` search asks with the embedding of
    `query`, as published; `lexical` asks BM25 with the bare name, which finds names that the encoder has not learned;
    `hybrid` fuses both. Dense search compares with the vectors of captions, or with `modality` "image" with those of
    images, whose captions are then used, as the authors' code did. `where` filters by payload (see store.search).
    Raises ValueError for a value out of range.
    """

    weight: float = 0.25
    limit: int = 100
    candidates: int = 1000
    search: Search = "hybrid"
    query: str = "a photo of a {}."
    modality: Modality = "text"
    keep: str = "token"
    names: str = "kept"
    where: Filters = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of the captions is {self.weight}; give a number from 0 to 1")
        if not 1 <= self.limit <= self.candidates:
            raise ValueError(f"limit is {self.limit} of {self.candidates} candidates; give 1 <= limit <= candidates")
        if self.search not in get_args(Search):
            raise ValueError(f"unknown search {self.search!r}; known are {', '.join(get_args(Search))}")
        if "{}" not in self.query:
            raise ValueError(f"query {self.query!r} has no '{{}}'; put '{{}}' where the class name goes")
        if self.modality not in get_args(Modality):
            raise ValueError(f"unknown modality {self.modality!r}; known are {', '.join(get_args(Modality))}")
        if self.modality == "image" and self.search == "lexical":
            raise ValueError("lexical search compares no image vectors; use dense or hybrid search")
        if self.keep not in FILTERS:
            raise ValueError(f"unknown filter {self.keep!r}; known are {', '.join(FILTERS)}")
        if self.names not in REWRITES:
            raise ValueError(f"names in captions are {' or '.join(REWRITES)}, found {self.names!r}")


def gather(
    labels: LabelSet,
    *,
    encoder: Encoder,
    store: Store,
    retrieval: Retrieval | None = None,
    clock: StageClock | None = None,
    report: Report = silent,
) -> Texts:
    """Return the context texts of each class, in class order; () for a class of which the store holds nothing.

    Raises ValueError for a store without captions, one whose vectors are another encoder's (lexical search needs
    none, so there any store will do), and one without the vectors or payload fields asked for.
    """
    retrieval, clock = retrieval or Retrieval(), clock or StageClock()
    _check_store(store, encoder, retrieval)
    return retrieved_texts(
        labels,
        _search(labels, encoder=encoder, store=store, retrieval=retrieval, clock=clock, report=report),
        weight=retrieval.weight,
        limit=retrieval.limit,
        keep=FILTERS[retrieval.keep],
        rewrite=REWRITES[retrieval.names],
    )


def _search(
    labels: LabelSet, *, encoder: Encoder, store: Store, retrieval: Retrieval, clock: StageClock, report: Report
) -> Iterator[list[Hit]]:
    """Yield the captions found for each class, best first, searching the store for a batch of classes at a time."""
    vectors = None
    if retrieval.search != "lexical":
        with clock.stage("encode queries"):
            vectors = encoder.encode_text([fill(retrieval.query, name) for name in labels.names]).cpu().numpy()
    for start in range(0, len(labels), CLASSES_PER_SEARCH):
        rows = slice(start, start + CLASSES_PER_SEARCH)
        texts = None if retrieval.search == "dense" else [name.replace("_", " ") for name in labels.names[rows]]
        with clock.stage("search"):
            found = store.search(
                texts=texts,
                vectors=None if vectors is None else vectors[rows],
                limit=retrieval.candidates,
                mode=retrieval.search,
                where=retrieval.where,
                vector=_vector(store, retrieval),
            )
        with clock.stage("filter"):
            yield from found
        report(Progress("retrieve", start + len(found), len(labels), "classes"))


def _vector(store: Store, retrieval: Retrieval) -> str | None:
    alone = len(store.card.schema.vectors) == 1 and retrieval.modality == "text"
    return None if alone else retrieval.modality


def _check_store(store: Store, encoder: Encoder, retrieval: Retrieval) -> None:
    if retrieval.search != "lexical" and not store.card.encoder.agrees_with(encoder.fingerprint):
        raise ValueError(
            f"the index at {store.location} was built with {store.card.encoder}, but the encoder is "
            f"{encoder.fingerprint}; use the encoder of the index, or lexical search, which compares no vectors"
        )
    if store.count() == 0:
        raise ValueError(f"the index at {store.location} holds no captions; build it first")
