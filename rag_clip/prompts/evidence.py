"""Captions of a store as evidence for class names: retrieved, filtered and weighted per class, as context texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import normalize

from rag_clip.data import Hit, LabelSet, PromptText, check_same_encoder
from rag_clip.progress import Progress, ProgressEvent
from rag_clip.prompts.contrast import KNOWN_WEIGHT, LEAST_SURE, ROUNDS, class_means, confirmed, contrast, trust
from rag_clip.prompts.known import KnownNames, known_names, nearer_names
from rag_clip.prompts.mentions import Mentions
from rag_clip.prompts.mixed import Texts
from rag_clip.prompts.plurals import with_plurals
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.retrieved import Keep, Rewrite, as_written, retrieved_texts, without_name
from rag_clip.prompts.templates import GENERAL, choose_templates, fill
from rag_clip.protocols import Encoder
from rag_clip.store import Store
from rag_clip.store.schema import TextIndex
from rag_clip.words import spoken, words_of

CLASSES_PER_SEARCH = 64
LEAST_SHARE = 1e-4
COMMON = 32


@dataclass(frozen=True, slots=True)
class Gathered:
    """Context texts of each class, () without trusted captions, and how they were weighed.

    `templates` are those to mix them into, None for the label set's own. `names` says which names the encoder knows
    (see prompts.known), in the order of the label set; None where that was not asked or no caption was found.
    """

    texts: Texts
    templates: tuple[str, ...] | None
    names: KnownNames | None = None


def gather(
    labels: LabelSet,
    *,
    encoder: Encoder,
    store: Store,
    retrieval: Retrieval | None = None,
    templates: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Texts:
    """Return the context texts of each class, in class order; () for a class without trusted captions.

    labels: the classes.
    encoder: the one that the index was built with; for lexical search any will do.
    store: the index.
    retrieval: how captions are retrieved and chosen.
    templates: those that the captions will be mixed into, which trust compares with; by default the label set's.
    progress: collects seconds per stage, and passes progress events on.

    Raises ValueError for a store without captions, a store with vectors of another encoder, and a store without the
    vectors or payload fields that `retrieval` needs.
    """
    retrieval, progress = retrieval or Retrieval(), progress or Progress()
    found = find_captions(labels, encoder=encoder, store=store, retrieval=retrieval, progress=progress)
    return trusted_captions(
        found, labels, encoder=encoder, retrieval=retrieval, templates=templates, progress=progress
    ).texts


def find_captions(
    labels: LabelSet,
    *,
    encoder: Encoder,
    store: Store,
    retrieval: Retrieval,
    progress: Progress,
) -> Texts:
    """Return the captions of each class that pass the filter, with equal shares of the weight; () where none does.

    Names stay in the captions until `trusted_captions` drops them; captions that would become empty without them are
    left out already if it may. So the result is the same for every trust of a retrieval that drops names. Parameters
    and errors are those of `gather`.
    """
    _check_store(store, encoder, retrieval)
    labels = _spelled(labels, retrieval)
    return retrieved_texts(
        labels,
        _search(labels, encoder=encoder, store=store, retrieval=retrieval, progress=progress),
        weight=retrieval.weight,
        limit=retrieval.limit,
        keep=_filter(labels, retrieval),
        rewrite=_whole_if_rest if retrieval.may_drop_names else as_written,
    )


def trusted_captions(
    found: Texts,
    labels: LabelSet,
    *,
    encoder: Encoder,
    retrieval: Retrieval,
    templates: Sequence[str] | None = None,
    progress: Progress,
) -> Gathered:
    """Weight captions by the contrast and trust of `retrieval`; () for a class without trusted captions.

    found: the result of `find_captions`.
    labels, encoder, retrieval, templates, progress: as in `gather`.
    """
    given = tuple(templates) if templates else None
    labels = _spelled(labels, retrieval)
    if not (retrieval.decides_names or retrieval.knows_names):
        found = _rewritten(found, labels, retrieval.rewrite)
    if not any(found) or not (retrieval.separates or retrieval.weighs_classes):
        return Gathered(found, given)
    if retrieval.knows_names:
        ensemble = given or labels.templates or GENERAL
        return Gathered(_less_common(_shared(found, min(retrieval.weight, KNOWN_WEIGHT))), ensemble)
    with progress.stage("weigh"):
        if not retrieval.decides_names:
            return Gathered(_weigh(_encoded(found, labels, encoder), labels, encoder, retrieval, given), given)
        bare = _encoded(_rewritten(found, labels, without_name), labels, encoder)
        ensemble = given or labels.templates or GENERAL
        told = _tell_apart(bare, labels, encoder)
        names = _known_names(bare, told, labels, encoder, ensemble)
        shared = _shared(found, min(retrieval.weight, KNOWN_WEIGHT))
        if names.known.all():
            return Gathered(_less_common(shared), ensemble, names)
        chosen = ensemble if names.known.any() else given
        least = 0.0 if names.meaningless else LEAST_SURE
        if retrieval.rewrite is as_written:
            captions = _encoded(found, labels, encoder)
            weighed = _weigh(captions, labels, encoder, retrieval, chosen, least_sure=least)
        else:
            weighed = _weigh(bare, labels, encoder, retrieval, chosen, least_sure=least, told=told)
        texts = zip(names.known.tolist(), shared, weighed, strict=True)
        return Gathered(tuple(of_known if known else rest for known, of_known, rest in texts), chosen, names)


def _spelled(labels: LabelSet, retrieval: Retrieval) -> LabelSet:
    return with_plurals(labels) if retrieval.plurals else labels


def _filter(labels: LabelSet, retrieval: Retrieval) -> Keep:
    if not retrieval.refuses_rivals:
        return retrieval.passes
    mentions = Mentions(labels)
    return _both(retrieval.passes, mentions.keep_holding if retrieval.whole_names else mentions.keep)


def _both(first: Keep, second: Keep) -> Keep:
    def both(name: str, synonyms: Sequence[str]) -> Callable[[str], bool]:
        passes_first, passes_second = first(name, synonyms), second(name, synonyms)
        return lambda caption: passes_first(caption) and passes_second(caption)

    return both


def _whole_if_rest(name: str, synonyms: Sequence[str] = ()) -> Callable[[str], str]:
    """Leave captions as they are, but drop those of which nothing is left without the name."""
    rest = without_name(name, synonyms)
    return lambda caption: caption if rest(caption) else ""


def _rewritten(found: Texts, labels: LabelSet, rewrite: Rewrite) -> Texts:
    rewrites = map(rewrite, labels.names, labels.synonyms)
    return tuple(
        tuple(replace(text, text=rewritten(text.text)) for text in group)
        for group, rewritten in zip(found, rewrites, strict=True)
    )


def _shared(found: Texts, weight: float) -> Texts:
    return tuple(tuple(replace(text, weight=weight / len(group)) for text in group) for group in found)


def _less_common(shared: Texts) -> Texts:
    """Subtract what captions of any class say: the mean of a few, the same for every class that has captions.

    All captions have a direction in common, which draws images to the classes that have captions. The few are those
    with the first ids, which are hashes of the captions. A class's own caption among them weighs so much less. If only
    one class has captions, nothing is known to be common.
    """
    if sum(map(bool, shared)) < 2:
        return shared
    found = {text.evidence: text for group in shared for text in group}
    names = sorted(found)[:COMMON]
    common = [found[name] for name in names]

    def less(group: Sequence[PromptText]) -> tuple[PromptText, ...]:
        share = sum(text.weight for text in group) / len(common)
        own = {text.evidence for text in group}
        kept = [replace(text, weight=text.weight - share * (text.evidence in names)) for text in group]
        others = [replace(text, weight=-share, score=None, rank=None) for text in common if text.evidence not in own]
        return (*kept, *others)

    return tuple(less(group) if group else () for group in shared)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Captions with their unit vectors [t, d] and classes [t], float32 on the encoder's device.

    Classes are taken in the `order` of their names, so that nothing depends on the order of the label set, not even
    the last digit; row i of `groups`, and class i of `classes`, is class order[i] of the label set.
    """

    order: list[int]
    groups: list[tuple[PromptText, ...]]
    vectors: torch.Tensor
    classes: torch.Tensor


def _encoded(chosen: Texts, labels: LabelSet, encoder: Encoder) -> _Encoded:
    order = sorted(range(len(labels)), key=lambda row: labels.names[row])
    groups = [chosen[row] for row in order]
    distinct = {text: row for row, text in enumerate(dict.fromkeys(text.text for group in groups for text in group))}
    encoded = encoder.encode_text(list(distinct)).float()
    device = encoded.device
    rows = torch.tensor([distinct[text.text] for group in groups for text in group], device=device)
    vectors = encoded[rows]  # [t, d]
    classes = torch.tensor([row for row, group in enumerate(groups) for _ in group], device=device)
    return _Encoded(order, groups, vectors, classes)


def _anchors(order: Sequence[int], labels: LabelSet, encoder: Encoder, templates: Sequence[str]) -> torch.Tensor:
    """Return the unit vectors [c, d] of the names in their templates, in the order given."""
    filled = encoder.encode_text([fill(template, labels.names[row]) for row in order for template in templates])
    return normalize(filled.float().view(len(labels), len(templates), -1).mean(1), dim=-1)


@dataclass(frozen=True, slots=True)
class _Told:
    """Captions told apart by contrast: their shares [t], and how sure each class is [c] (see prompts.contrast)."""

    shares: torch.Tensor
    sure: torch.Tensor


def _tell_apart(captions: _Encoded, labels: LabelSet, encoder: Encoder) -> _Told:
    settings: dict[str, Any] = {"count": len(labels), "scale": encoder.scale}
    shares = contrast(captions.vectors, captions.classes, **settings)
    return _Told(shares, confirmed(captions.vectors, captions.classes, shares, **settings))


def _known_names(
    captions: _Encoded, told: _Told, labels: LabelSet, encoder: Encoder, templates: Sequence[str]
) -> KnownNames:
    count, vectors, classes = len(labels), captions.vectors, captions.classes
    numbers = torch.bincount(classes, minlength=count)
    nearer = nearer_names(
        _anchors(captions.order, labels, encoder, templates), class_means(vectors, classes, told.shares, count=count)
    )
    several = told.sure[numbers > 1]
    sure = float(several.mean()) if len(several) else 0.0
    found = known_names(nearer, numbers, sure=sure)
    known = torch.empty_like(found.known)
    known[captions.order] = found.known
    return replace(found, share=round(found.share, 6), known=known)


def _weigh(
    captions: _Encoded,
    labels: LabelSet,
    encoder: Encoder,
    retrieval: Retrieval,
    templates: Sequence[str] | None,
    *,
    least_sure: float = LEAST_SURE,
    told: _Told | None = None,
) -> Texts:
    """Set the weight of each caption by contrast and trust, and leave out those that come to next to nothing.

    `told` is what `_tell_apart` returned for these captions, if it was asked already: it takes nearly all the time.
    """
    vectors, classes = captions.vectors, captions.classes
    if not retrieval.separates:
        told = None
    rounds = ROUNDS if retrieval.separates else 0
    shares = told.shares if told else contrast(vectors, classes, count=len(labels), scale=encoder.scale, rounds=rounds)
    totals = [retrieval.weight] * len(labels)
    if retrieval.weighs_classes:
        anchors = _anchors(captions.order, labels, encoder, choose_templates(labels, templates))
        settings: dict[str, Any] = {"weight": retrieval.weight, "least_sure": least_sure}
        sure = told.sure if told else None
        found = trust(anchors, vectors, classes, shares, scale=encoder.scale, sure=sure, **settings)
        totals = [round(total, 6) for total in found.tolist()]
    share = iter(shares.tolist())
    weighed = {
        row: _given([(text, next(share)) for text in group], total)
        for row, group, total in zip(captions.order, captions.groups, totals, strict=True)
    }
    return tuple(weighed[row] for row in range(len(labels)))


def _given(group: Sequence[tuple[PromptText, float]], total: float) -> tuple[PromptText, ...]:
    kept = [(text, share) for text, share in group if share >= LEAST_SHARE and total > 0]
    whole = sum(share for _, share in kept)
    return tuple(replace(text, weight=round(total * share / whole, 9)) for text, share in kept)


def _search(
    labels: LabelSet, *, encoder: Encoder, store: Store, retrieval: Retrieval, progress: Progress
) -> Iterator[Iterable[Hit]]:
    """Yield the captions retrieved for each class, best first: from the postings of the index where these answer it.

    The stage "search" is the time that searching took, "filter" that of the caller.
    """
    vectors = None
    if retrieval.by_meaning:
        with progress.stage("encode queries"):
            vectors = encoder.encode_text([fill(retrieval.query, name) for name in labels.names]).cpu().numpy()
    texts = [name.replace("_", " ") for name in labels.names] if retrieval.by_words else None

    by_words = store.card.schema.payload["text"] == TextIndex(kind="text")
    holding = _required_phrases(labels) if retrieval.whole_names and by_words else [[] for _ in labels.names]
    postings = store.postings() if any(holding) and _in_postings(store, retrieval) else None

    def search(rows: Sequence[int]) -> list[list[Hit]]:
        return store.search(
            texts=None if texts is None else [texts[row] for row in rows],
            vectors=None if vectors is None else vectors[rows],
            limit=retrieval.candidates,
            mode=retrieval.search,
            where=retrieval.where,
            vector=_vector(store, retrieval),
            holding=[holding[row] for row in rows],
        )

    with ThreadPoolExecutor(1) as ahead:
        rest = [row for row, phrases in enumerate(holding) if postings is None or not phrases]
        searched = _search_ahead(search, rest, ahead)
        for row, phrases in enumerate(holding):
            with progress.stage("search"):
                if postings is None or not phrases:
                    hits: Iterable[Hit] = next(searched)
                else:
                    text = None if texts is None else texts[row]
                    vector = None if vectors is None else vectors[row]
                    hits = postings.search(phrases, text=text, vector=vector, limit=retrieval.candidates)
            with progress.stage("filter"):
                yield hits
            if (row + 1) % CLASSES_PER_SEARCH == 0 or row + 1 == len(labels):
                progress.report(ProgressEvent("retrieve", row + 1, len(labels), "classes"))


def _search_ahead(
    search: Callable[[Sequence[int]], list[list[Hit]]], rows: Sequence[int], ahead: ThreadPoolExecutor
) -> Iterator[list[Hit]]:
    """Yield the hits of each class from one search per batch of classes, the next of which runs meanwhile."""
    batches = [rows[start : start + CLASSES_PER_SEARCH] for start in range(0, len(rows), CLASSES_PER_SEARCH)]
    waiting = [ahead.submit(search, batch) for batch in batches[:1]]
    for following in [*batches[1:], None]:
        found = waiting.pop().result()
        if following is not None:
            waiting.append(ahead.submit(search, following))
        yield from found


def _in_postings(store: Store, retrieval: Retrieval) -> bool:
    """Return whether the search asks for no more than postings know: words, and the vectors of captions."""
    schema = store.card.schema
    of_captions = not retrieval.by_meaning or schema.pick_vector(_vector(store, retrieval)) == schema.of_captions
    return of_captions and not retrieval.where


def _required_phrases(labels: LabelSet) -> list[list[str]]:
    """Return the phrases that captions of each class must contain; none where the engine may split words differently.

    That is the case for spellings with characters beyond ASCII: engines do not fold ß, and do not split scripts without
    spaces. The engine only requires all words of a phrase; the filter checks that they are adjacent.
    """
    spellings = [(name, *synonyms) for name, synonyms in zip(labels.names, labels.synonyms, strict=True)]
    return [
        [" ".join(words_of(spoken(text))) for text in texts] if all(map(_plain, texts)) else [] for texts in spellings
    ]


def _plain(text: str) -> bool:
    return text.isascii() and bool(words_of(text))


def _vector(store: Store, retrieval: Retrieval) -> str | None:
    alone = len(store.card.schema.vectors) == 1 and not retrieval.of_images
    return None if alone else retrieval.modality


def _check_store(store: Store, encoder: Encoder, retrieval: Retrieval) -> None:
    if retrieval.by_meaning:
        advice = "use the encoder of the index, or lexical search, which compares no vectors"
        what = f"the index at {store.location} was built"
        check_same_encoder(store.card.encoder, encoder.fingerprint, what=what, advice=advice)
    if store.count() == 0:
        raise ValueError(f"the index at {store.location} holds no captions; build it first")
