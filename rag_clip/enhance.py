"""The query layer: from class names to weighted texts, with the captions that a store holds for each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from rag_clip.data import Hit, LabelSet, Prompts
from rag_clip.progress import Progress, Report, StageClock, silent
from rag_clip.prompts.control import random_prompts
from rag_clip.prompts.retrieved import (
    Keep,
    Rewrite,
    as_written,
    contains_phrase,
    contains_substring,
    contains_token,
    retrieved_prompts,
    without_name,
)
from rag_clip.prompts.templates import fill, template_prompts
from rag_clip.protocols import Encoder
from rag_clip.store import Store

Method = Literal["templates", "retrieved", "random"]
Search = Literal["dense", "lexical", "hybrid"]
FILTERS: Mapping[str, Keep] = {
    "token": contains_token,
    "substring": contains_substring,
    "phrase": contains_phrase,
}
REWRITES: Mapping[str, Rewrite] = {"kept": as_written, "dropped": without_name}
CLASSES_PER_SEARCH = 64
LARGEST_SAMPLE = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How to enhance; weight, limit and query are those of RePE (see prompts.retrieved).

    `candidates` captions are searched per class, of which the first `limit` that pass the filter `keep` are mixed in
    with `weight` in total; class names in them are `kept`, as published, or `dropped`. `dense` search asks with the
    embedding of `query`, as published; `lexical` asks BM25 with the bare name, which finds names that the encoder has
    not learned; `hybrid` fuses both. `seed` draws the control. Raises ValueError for a value out of range.
    """

    templates: tuple[str, ...] | None = None
    weight: float = 0.25
    limit: int = 100
    search: Search = "hybrid"
    candidates: int = 1000
    keep: str = "token"
    names: str = "kept"
    query: str = "a photo of a {}."
    seed: int = 0

    def __post_init__(self) -> None:
        if self.search not in get_args(Search):
            raise ValueError(f"unknown search {self.search!r}; known are {', '.join(get_args(Search))}")
        if self.keep not in FILTERS:
            raise ValueError(f"unknown filter {self.keep!r}; known are {', '.join(FILTERS)}")
        if self.names not in REWRITES:
            raise ValueError(f"names in captions are {' or '.join(REWRITES)}, found {self.names!r}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of the captions is {self.weight}; give a number from 0 to 1")
        if not 1 <= self.limit <= self.candidates:
            raise ValueError(f"limit is {self.limit} of {self.candidates} candidates; give 1 <= limit <= candidates")
        if "{}" not in self.query:
            raise ValueError(f"query {self.query!r} has no '{{}}'; put '{{}}' where the class name goes")


def enhance(
    labels: LabelSet,
    *,
    encoder: Encoder,
    store: Store | None = None,
    method: Method = "retrieved",
    settings: Settings | None = None,
    clock: StageClock | None = None,
    report: Report = silent,
) -> Prompts:
    """Turn a label set into prompts: its templates alone, with retrieved captions, or with random ones (the control).

    Raises ValueError for an unknown method, a method that needs a store and has none, a store without captions, and
    a store whose vectors are another encoder's (lexical search needs none, so there any store will do).
    """
    settings = settings or Settings()
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}; known are {', '.join(get_args(Method))}")
    if method == "templates":
        return _signed(template_prompts(labels, templates=settings.templates), encoder)
    if store is None:
        raise ValueError(f"method {method!r} retrieves captions and needs an index; give one, or use 'templates'")
    _check_store(store, encoder, settings)
    clock = clock or StageClock()
    prompts = retrieved_prompts(
        labels,
        retrieve(labels, encoder=encoder, store=store, settings=settings, clock=clock, report=report),
        templates=settings.templates,
        weight=settings.weight,
        limit=settings.limit,
        keep=FILTERS[settings.keep],
        rewrite=REWRITES[settings.names],
    )
    if method == "random":
        with clock.stage("sample"):
            prompts = random_prompts(prompts, _sample(prompts, store, settings.seed), seed=settings.seed)
    asked = {key: value for key, value in asdict(settings).items() if key in ("search", "candidates", "query")}
    return _signed(prompts, encoder, index=store.location, asked=asked)


def retrieve(
    labels: LabelSet,
    *,
    encoder: Encoder,
    store: Store,
    settings: Settings,
    clock: StageClock,
    report: Report = silent,
) -> Iterator[list[Hit]]:
    """Yield the captions found for each class, best first, searching the store for a batch of classes at a time."""
    vectors = None
    if settings.search != "lexical":
        with clock.stage("encode queries"):
            vectors = encoder.encode_text([fill(settings.query, name) for name in labels.names]).cpu().numpy()
    for start in range(0, len(labels), CLASSES_PER_SEARCH):
        rows = slice(start, start + CLASSES_PER_SEARCH)
        texts = None if settings.search == "dense" else [name.replace("_", " ") for name in labels.names[rows]]
        with clock.stage("search"):
            found = store.search(
                texts=texts,
                vectors=None if vectors is None else vectors[rows],
                limit=settings.candidates,
                mode=settings.search,
            )
        with clock.stage("filter"):
            yield from found
        report(Progress("retrieve", start + len(found), len(labels), "classes"))


def _check_store(store: Store, encoder: Encoder, settings: Settings) -> None:
    if settings.search != "lexical" and not store.card.encoder.agrees_with(encoder.fingerprint):
        raise ValueError(
            f"the index at {store.location} was built with {store.card.encoder}, but the encoder is "
            f"{encoder.fingerprint}; use the encoder of the index, or lexical search, which compares no vectors"
        )
    if store.count() == 0:
        raise ValueError(f"the index at {store.location} holds no captions; build it first")


def _sample(prompts: Prompts, store: Store, seed: int) -> list[Hit]:
    needed = sum(text.role == "context" for group in prompts.texts for text in group)
    return store.sample(min(needed, LARGEST_SAMPLE, store.count()), seed) if needed else []


def _signed(prompts: Prompts, encoder: Encoder, index: str = "", asked: Mapping[str, Any] | None = None) -> Prompts:
    settings = {**prompts.provenance["settings"], **(asked or {})}
    signature = {"encoder": asdict(encoder.fingerprint), "settings": settings, "index": index}
    return replace(prompts, provenance={**prompts.provenance, **signature})
