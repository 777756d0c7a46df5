"""RePE: class prompts mixed with the captions retrieved for the class.

Ren et al., 2023, "Delving into the Openness of CLIP" (Findings of ACL 2023, arXiv 2206.01986).
For templates t_j and the first K captions r_k that pass the class-word filter, classifiers.zero_shot computes

    w_c = normalise( mean_j normalise( (1 - weight) * t_j + weight * mean_k r_k ) )

weight = 0.25 and K = 100 are the values in the paper's commands. Its filter keeps captions with any word of the class
name as a substring, so "can" keeps "American"; here it must be a whole word, unless `contains_substring` is given.

`without_name` is ours: it removes the class name from captions before they are embedded. The templates contain the
name already, and if the encoder has not learned it, its meaningless embedding outweighs the rest of the caption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
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
    hits: Iterable[Iterable[Hit]],
    *,
    weight: float = 0.25,
    limit: int = 100,
    keep: Keep | None = None,
    rewrite: Rewrite | None = None,
) -> Texts:
    """Return the captions of each class as context texts with equal shares of `weight`; () for a class without any.

    labels: the classes.
    hits: captions retrieved per class, best first, in class order.
    weight: total weight of a class's captions.
    limit: captions used per class: the first that pass the filter.
    keep: the filter, by default `contains_token`.
    rewrite: changes captions before they are embedded, by default `as_written`; captions that become empty are dropped.

    Raises ValueError for a weight outside [0, 1], a limit below 1, or hits that do not align with the labels.
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
    """Return prompts of templates (total weight 1 - `weight`) and of `retrieved_texts` (total weight `weight`).

    A class without captions has only its templates; provenance counts these classes as `without_captions`.
    `templates` default to those of the label set; the other parameters and errors are those of `retrieved_texts`.
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
    """Return the predicate of captions that contain any word of the class name (split at spaces and underscores).

    Case and a possessive 's are ignored. In scripts without spaces each letter counts as a word, and all letters of a
    name must be there in order.
    """
    return holds_any(re.split(r"[\s_]+", name))


def contains_phrase(name: str, synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
    """Return the predicate of captions that contain the whole name or a whole synonym, word by word."""
    return holds_any([name, *synonyms])


def contains_substring(name: str, _synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
    """Return the predicate of captions with any word of the name anywhere, even inside a word: the published filter."""
    words = [word for word in re.split(r"[\s_]+", name.lower()) if word]
    return lambda caption: any(word in caption.lower() for word in words)


def as_written(_name: str, _synonyms: Sequence[str] = ()) -> Callable[[str], str]:
    """Return a function that leaves captions as they are, as published."""
    return lambda caption: caption


def without_name(name: str, synonyms: Sequence[str] = ()) -> Callable[[str], str]:
    """Return a function that removes the class name and its synonyms; '' where fewer than three words remain.

    Names are found as in `contains_phrase`: case, hyphens, dots and apostrophes are ignored.
    """
    mentions = spans_of([name, *synonyms])

    def rewritten(caption: str) -> str:
        starts, ends = [0], []
        for start, end in mentions(caption):
            ends.append(start)
            starts.append(end)
        rest = " ".join(caption[start:end] for start, end in zip(starts, [*ends, None], strict=True))
        if "(" in rest or "[" in rest:
            rest = _EMPTY_BRACKETS.sub(" ", rest)
        pieces = rest.split()
        left = " ".join(pieces).strip(_LOOSE_ENDS)
        # Pieces of letters and digits alone are words at a glance, ten times faster than splitting.
        enough = sum(map(str.isalnum, pieces)) >= LEAST_WORDS or len(words_of(left)) >= LEAST_WORDS
        return left if enough else ""

    return rewritten


def _first_kept(
    hits: Iterable[Hit], kept: Callable[[str], bool], rewritten: Callable[[str], str], limit: int
) -> list[tuple[int, Hit, str]]:
    chosen = ((rank, hit, rewritten(hit.text)) for rank, hit in enumerate(hits) if kept(hit.text))
    return list(islice((found for found in chosen if found[2]), limit))


def _shared(hits: Sequence[tuple[int, Hit, str]], weight: float) -> tuple[PromptText, ...]:
    return tuple(
        PromptText(text, weight / len(hits), "context", hit.source, hit.id, hit.score, rank) for rank, hit, text in hits
    )
