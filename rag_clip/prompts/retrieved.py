"""RePE: class prompts pulled towards the captions retrieved for the class.

Ren et al., 2023, "Delving into the Openness of CLIP" (Findings of ACL 2023, arXiv 2206.01986).
For templates t_j and the first K captions r_k that pass the class-word filter, classifiers.zero_shot computes

    w_c = normalise( mean_j normalise( (1 - weight) * t_j + weight * mean_k r_k ) )

weight = 0.25 and K = 100 are the paper's commands. Its filter keeps captions with any word of the class name as a
substring, so "can" keeps "American"; here the word must be a word of the caption unless `contains_substring` is given.

Ours is `without_name`: the class name is left out of the captions before they are embedded. The templates bring the
name already; where the encoder never learned it, what it makes of its letters drowns the description beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice

from rag_clip.data import Hit, LabelSet, Prompts, PromptText
from rag_clip.prompts.mixed import Texts, mix
from rag_clip.prompts.templates import choose_templates, template_prompts
from rag_clip.words import holds_any, spans_of, words_of

Keep = Callable[[str, Sequence[str]], Callable[[str], bool]]
Rewrite = Callable[[str, Sequence[str]], Callable[[str], str]]
LEAST_WORDS = 3
_LOOSE_ENDS = " :;,-–—()[]\"'"
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]")


def retrieved_texts(
    labels: LabelSet,
    hits: Iterable[Sequence[Hit]],
    *,
    weight: float = 0.25,
    limit: int = 100,
    keep: Keep | None = None,
    rewrite: Rewrite | None = None,
) -> Texts:
    """Return for each class its first `limit` kept captions as contexts that share `weight`; () where none is kept.

    `hits` are the captions retrieved per class, best first, in class order; `keep` is the class-word filter, by
    default `contains_token`; `rewrite` changes what is embedded, by default nothing (`as_written`), and drops captions
    of which it leaves nothing. Raises ValueError for a weight outside [0, 1], a limit below 1, or hits that do not
    match.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of the captions is {weight}; give a number from 0 to 1")
    if limit < 1:
        raise ValueError(f"the limit of captions is {limit}; give at least 1")
    keep, rewrite = keep or contains_token, rewrite or as_written
    columns = zip(labels.names, labels.synonyms, hits, strict=True)
    return tuple(
        _shared(_first_kept(found, keep(name, synonyms), rewrite(name, synonyms), limit), weight)
        for name, synonyms, found in columns
    )


def retrieved_prompts(
    labels: LabelSet,
    hits: Iterable[Sequence[Hit]],
    *,
    templates: Sequence[str] | None = None,
    weight: float = 0.25,
    limit: int = 100,
    keep: Keep | None = None,
    rewrite: Rewrite | None = None,
) -> Prompts:
    """Give each class its templates (weight 1 - `weight` together) and its `retrieved_texts` (`weight`).

    A class with no caption has its templates alone; provenance counts these as `without_captions`.
    """
    keep, rewrite = keep or contains_token, rewrite or as_written
    contexts = retrieved_texts(labels, hits, weight=weight, limit=limit, keep=keep, rewrite=rewrite)
    settings = {
        "templates": list(choose_templates(labels, templates)),
        "weight": weight,
        "limit": limit,
        "keep": keep.__name__,
        "rewrite": rewrite.__name__,
    }
    mixed = mix(template_prompts(labels, templates=templates), contexts)
    alone = sum(not found for found in contexts)
    facts = {"method": "retrieved", "settings": settings, "without_captions": alone}
    return Prompts(labels, mixed.texts, {**mixed.provenance, **facts})


def contains_token(name: str, _synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
    """Keep captions with any word of the class name (split at spaces and underscores) among their words.

    Words are compared without case and without a possessive 's. In scripts that put no spaces between words each
    letter is one, and a name must be there letter by letter.
    """
    return holds_any(re.split(r"[\s_]+", name))


def contains_phrase(name: str, synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
    """Keep captions with the whole name, or a whole synonym, word by word in order; for names that share words."""
    return holds_any([name, *synonyms])


def contains_substring(name: str, _synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
    """Keep captions with any word of the class name anywhere, even inside another word: the filter as published."""
    words = [word for word in re.split(r"[\s_]+", name.lower()) if word]
    return lambda caption: any(word in caption.lower() for word in words)


def as_written(_name: str, _synonyms: Sequence[str] = ()) -> Callable[[str], str]:
    """Leave captions as they are, as published."""
    return lambda caption: caption


def without_name(name: str, synonyms: Sequence[str] = ()) -> Callable[[str], str]:
    """Leave the class name and its synonyms out of captions; '' where fewer than three words are left.

    Names are found as `contains_phrase` finds them, whatever their case, hyphens, dots and apostrophes.
    """
    mentions = spans_of([name, *synonyms])

    def rewritten(caption: str) -> str:
        starts, ends = [0], []
        for start, end in mentions(caption):
            ends.append(start)
            starts.append(end)
        rest = " ".join(caption[start:end] for start, end in zip(starts, [*ends, None], strict=True))
        left = " ".join(_EMPTY_BRACKETS.sub(" ", rest).split()).strip(_LOOSE_ENDS)
        return left if len(words_of(left)) >= LEAST_WORDS else ""

    return rewritten


def _first_kept(
    hits: Sequence[Hit], kept: Callable[[str], bool], rewritten: Callable[[str], str], limit: int
) -> list[tuple[int, Hit]]:
    chosen = ((rank, replace(hit, text=rewritten(hit.text))) for rank, hit in enumerate(hits) if kept(hit.text))
    return list(islice(((rank, hit) for rank, hit in chosen if hit.text), limit))


def _shared(hits: Sequence[tuple[int, Hit]], weight: float) -> tuple[PromptText, ...]:
    return tuple(
        PromptText(hit.text, weight / len(hits), "context", hit.source, hit.id, hit.score, rank) for rank, hit in hits
    )
