"""Evidence for class names: captions that a store holds for each class, chosen and weighed, as context texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch.nn.functional import normalize

from rag_clip.data import Hit, LabelSet, PromptText, check_same_encoder
from rag_clip.progress import Progress, Report, StageClock, silent
from rag_clip.prompts.contrast import ROUNDS, contrast, trust
from rag_clip.prompts.mentions import Mentions
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
from rag_clip.prompts.templates import choose_templates, fill
from rag_clip.protocols import Encoder
from rag_clip.store import Store
from rag_clip.store.schema import Filters, TextIndex
from rag_clip.words import spoken, words_of

Search = Literal["dense", "lexical", "hybrid"]
Modality = Literal["text", "image"]
Contrast = Literal["none", "drop", "weigh"]
Trust = Literal["equal", "evidence"]
FILTERS: Mapping[str, Keep] = {
    "token": contains_token,
    "substring": contains_substring,
    "phrase": contains_phrase,
}
REWRITES: Mapping[str, Rewrite] = {"kept": as_written, "dropped": without_name}
CLASSES_PER_SEARCH = 64
LEAST_SHARE = 1e-4


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How captions are found and chosen; weight, limit and query are those of RePE (see prompts.retrieved).

    `candidates` captions are searched per class, of which the first `limit` that pass the filter `keep` share the
    `weight`; with "phrase", only captions that hold the words of the name or of a synonym are searched.
    Class names in captions are `kept`, as published, or `dropped`. `dense` search asks with the embedding of
    `query`, as published; `lexical` asks BM25 with the bare name, which finds names that the encoder has not learned;
    `hybrid` fuses both. Dense search compares with the vectors of captions, or with `modality` "image" with those of
    images, whose captions are then used, as the authors' code did. `where` filters by payload (see store.search).

    With `contrast` "drop", captions that name other classes only are refused (see prompts.mentions); "weigh" does that,
    and weighs captions by what they tell their class from the others (see prompts.contrast). With `trust` "evidence"
    each class gives its captions a weight of its own, up to `weight` (see there). Trust without contrast,
    and contrast with a weight of 0.75 or less, did worse than neither (tests/benchmarks/recipes.py --full). The
    defaults are RePE's but for the search, with neither.
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
    contrast: Contrast = "none"
    trust: Trust = "equal"
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
        if self.contrast not in get_args(Contrast):
            raise ValueError(f"unknown contrast {self.contrast!r}; known are {', '.join(get_args(Contrast))}")
        if self.trust not in get_args(Trust):
            raise ValueError(f"unknown trust {self.trust!r}; known are {', '.join(get_args(Trust))}")
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
    templates: Sequence[str] | None = None,
    clock: StageClock | None = None,
    report: Report = silent,
) -> Texts:
    """Return the context texts of each class, in class order; () for a class of which the store holds nothing to trust.

    `templates` are those the captions will be mixed into, by default the label set's own; trust looks at them. Raises
    ValueError for a store without captions, one whose vectors are another encoder's (lexical search needs none, so
    there any store will do), and one without the vectors or payload fields asked for.
    """
    retrieval, clock = retrieval or Retrieval(), clock or StageClock()
    found = find_captions(labels, encoder=encoder, store=store, retrieval=retrieval, clock=clock, report=report)
    return trusted_captions(found, labels, encoder=encoder, retrieval=retrieval, templates=templates, clock=clock)


def find_captions(
    labels: LabelSet,
    *,
    encoder: Encoder,
    store: Store,
    retrieval: Retrieval,
    clock: StageClock,
    report: Report = silent,
) -> Texts:
    """Return the captions of each class that pass the filter, sharing the weight; () where none does."""
    _check_store(store, encoder, retrieval)
    return retrieved_texts(
        labels,
        _search(labels, encoder=encoder, store=store, retrieval=retrieval, clock=clock, report=report),
        weight=retrieval.weight,
        limit=retrieval.limit,
        keep=_filter(labels, retrieval),
        rewrite=REWRITES[retrieval.names],
    )


def trusted_captions(
    found: Texts,
    labels: LabelSet,
    *,
    encoder: Encoder,
    retrieval: Retrieval,
    templates: Sequence[str] | None = None,
    clock: StageClock,
) -> Texts:
    """Weigh what `find_captions` found by the contrast and trust of `retrieval`; () for a class without trust."""
    if not any(found) or (retrieval.contrast != "weigh" and retrieval.trust == "equal"):
        return found
    with clock.stage("weigh"):
        return _weigh(found, labels, encoder, retrieval, choose_templates(labels, templates))


def _filter(labels: LabelSet, retrieval: Retrieval) -> Keep:
    keep = FILTERS[retrieval.keep]
    return keep if retrieval.contrast == "none" else _both(keep, Mentions(labels).keep)


def _both(first: Keep, second: Keep) -> Keep:
    def both(name: str, synonyms: Sequence[str]) -> Callable[[str], bool]:
        one, other = first(name, synonyms), second(name, synonyms)
        return lambda caption: one(caption) and other(caption)

    return both


def _weigh(chosen: Texts, labels: LabelSet, encoder: Encoder, retrieval: Retrieval, templates: Sequence[str]) -> Texts:
    """Set the weight of each caption by contrast and trust, and leave out those that come to next to nothing.

    In float32, on the device of the encoder. Classes are taken in the order of their names, so that nothing depends on
    the order of the label set, not even the last digit.
    """
    order = sorted(range(len(labels)), key=lambda row: labels.names[row])
    groups = [chosen[row] for row in order]
    distinct = {text: row for row, text in enumerate(dict.fromkeys(text.text for group in groups for text in group))}
    encoded = encoder.encode_text(list(distinct)).float()
    device = encoded.device
    vectors = encoded[torch.tensor([distinct[text.text] for group in groups for text in group], device=device)]
    classes = torch.tensor([row for row, group in enumerate(groups) for _ in group], device=device)
    rounds = ROUNDS if retrieval.contrast == "weigh" else 0
    shares = contrast(vectors, classes, count=len(labels), scale=encoder.scale, rounds=rounds)
    totals = [retrieval.weight] * len(labels)
    if retrieval.trust == "evidence":
        filled = encoder.encode_text([fill(template, labels.names[row]) for row in order for template in templates])
        anchors = normalize(filled.float().view(len(labels), len(templates), -1).mean(1), dim=-1)
        found = trust(anchors, vectors, classes, shares, scale=encoder.scale, weight=retrieval.weight)
        totals = [round(total, 6) for total in found.tolist()]
    share = iter(shares.tolist())
    weighed = {
        row: _given([(text, next(share)) for text in group], total)
        for row, group, total in zip(order, groups, totals, strict=True)
    }
    return tuple(weighed[row] for row in range(len(labels)))


def _given(group: Sequence[tuple[PromptText, float]], total: float) -> tuple[PromptText, ...]:
    kept = [(text, share) for text, share in group if share >= LEAST_SHARE and total > 0]
    whole = sum(share for _, share in kept)
    return tuple(replace(text, weight=round(total * share / whole, 9)) for text, share in kept)


def _search(
    labels: LabelSet, *, encoder: Encoder, store: Store, retrieval: Retrieval, clock: StageClock, report: Report
) -> Iterator[list[Hit]]:
    """Yield the captions found for each class, best first, searching the store for a batch of classes at a time.

    The next batch is searched while the caller looks at this one; the stage "search" is the time spent waiting for it.
    """
    vectors = None
    if retrieval.search != "lexical":
        with clock.stage("encode queries"):
            vectors = encoder.encode_text([fill(retrieval.query, name) for name in labels.names]).cpu().numpy()
    texts = None if retrieval.search == "dense" else [name.replace("_", " ") for name in labels.names]

    by_words = store.card.schema.payload["text"] == TextIndex(kind="text")
    holding = _held(labels) if retrieval.keep == "phrase" and by_words else None

    def search(rows: slice) -> list[list[Hit]]:
        return store.search(
            texts=None if texts is None else texts[rows],
            vectors=None if vectors is None else vectors[rows],
            limit=retrieval.candidates,
            mode=retrieval.search,
            where=retrieval.where,
            vector=_vector(store, retrieval),
            holding=None if holding is None else holding[rows],
        )

    batches = [slice(start, start + CLASSES_PER_SEARCH) for start in range(0, len(labels), CLASSES_PER_SEARCH)]
    done = 0
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(search, batches[0])
        for following in [*batches[1:], None]:
            with clock.stage("search"):
                found = waiting.result()
            if following is not None:
                waiting = ahead.submit(search, following)
            with clock.stage("filter"):
                yield from found
            done += len(found)
            report(Progress("retrieve", done, len(labels), "classes"))


def _held(labels: LabelSet) -> list[list[str]]:
    """Return the phrases that captions of each class must hold; none where an engine may see other words than we do.

    That is where a spelling is not of ASCII letters and digits alone: engines fold no ß, and split no script without
    spaces. Captions that hold all words of a phrase apart are left to the filter.
    """
    spellings = [(name, *synonyms) for name, synonyms in zip(labels.names, labels.synonyms, strict=True)]
    return [
        [" ".join(words_of(spoken(text))) for text in texts] if all(map(_plain, texts)) else [] for texts in spellings
    ]


def _plain(text: str) -> bool:
    return text.isascii() and bool(words_of(text))


def _vector(store: Store, retrieval: Retrieval) -> str | None:
    alone = len(store.card.schema.vectors) == 1 and retrieval.modality == "text"
    return None if alone else retrieval.modality


def _check_store(store: Store, encoder: Encoder, retrieval: Retrieval) -> None:
    if retrieval.search != "lexical":
        advice = "use the encoder of the index, or lexical search, which compares no vectors"
        what = f"the index at {store.location} was built"
        check_same_encoder(store.card.encoder, encoder.fingerprint, what=what, advice=advice)
    if store.count() == 0:
        raise ValueError(f"the index at {store.location} holds no captions; build it first")
