"""Descriptions as context texts: sentences about each class, written by people or by a language model.

Each description becomes a context text (see classifiers.zero_shot); all texts of a class have equal weight:

- CuPL (Pratt et al., 2023, arXiv 2209.03320): the sentence as it is.
- DCLIP (Menon and Vondrick, 2023, arXiv 2210.07183): "river, which has sandy banks"; the wording is ours: "which"
  before a verb, "which is" before a noun phrase. The paper averages the cosines with these sentences alone: set
  weight = 1 and average = "cosines" in the recipe.
- LaBo (Yang et al., 2023, arXiv 2211.11158): the concept as it is, without the class name, as in its bottleneck.
- ELEVATER (Li et al., 2022, arXiv 2204.08790): "a photo of a river. ; river , a natural stream", for each template,
  with spaces around punctuation. A class without knowledge adds no text; in the published code it adds its name alone.

The published DCLIP and ELEVATER use no plain templates: set weight = 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag_clip.data import LabelSet, PromptText
from rag_clip.prompts.knowledge.names import NameMatch, match_names, require_match
from rag_clip.prompts.knowledge.sentences import Sentences
from rag_clip.prompts.mixed import Texts
from rag_clip.prompts.templates import choose_templates, fill

_TOKEN = re.compile(r"\w+(?:[-'’./]\w+)*|[^\w\s]")
_VERBS = ("is", "are", "has", "have", "may", "can")
_ADVERBS = ("often", "typically", "usually", "sometimes", "generally")
_TELLS_WHAT = ("a", "an", "the", "one", "used", "made", "found", "known", "similar", *_ADVERBS)


@dataclass(frozen=True, slots=True)
class Described:
    """`texts`: context texts per class, in label order, () for a class without; `matches`: the name match per file."""

    texts: Texts
    matches: tuple[NameMatch, ...]


def described_texts(
    labels: LabelSet, files: Sequence[Sentences], *, weight: float, templates: Sequence[str] | None = None
) -> Described:
    """Return the texts that all `files` have for each class, with the total weight `weight`.

    A text that was generated n times has n times the weight. `templates` (as in `choose_templates`) frame ELEVATER's
    knowledge. Evidence is the file, the class as it is spelled there, and the index of the text.
    Raises ValueError for a weight outside (0, 1], no file, a file that names none of the classes, and a file with a
    name that matches two classes.
    """
    if not 0 < weight <= 1:
        raise ValueError(f"the weight of the descriptions is {weight}; give a number above 0, up to 1")
    if not files:
        raise ValueError("there is no file of descriptions; give at least one")
    frames = choose_templates(labels, templates)
    found: list[list[PromptText]] = [[] for _ in labels.names]
    matches = tuple(_matched(labels, file) for file in files)
    for file, match in zip(files, matches, strict=True):
        for key, row in match.rows.items():
            found[row].extend(_described(file, key, labels.names[row], frames))
    return Described(tuple(_weighed(texts, weight) for texts in found), matches)


def _matched(labels: LabelSet, file: Sentences) -> NameMatch:
    try:
        match = match_names(labels, file.by_name)
    except ValueError as error:
        raise ValueError(f"{file.source}: {error}") from error
    require_match(match, labels, file.source)
    return match


def _described(file: Sentences, key: str, name: str, templates: Sequence[str]) -> Iterator[PromptText]:
    number = 0
    for sentence in file.by_name[key]:
        for text in _worded(file, sentence, name, templates):
            number += 1
            yield PromptText(text, 0.0, "context", file.source, f"{file.source}#{key}#{number}")


def _worded(file: Sentences, sentence: str, name: str, templates: Sequence[str]) -> list[str]:
    if file.kind in ("cupl", "labo"):
        return [sentence]
    if file.kind == "dclip":
        return [_with_descriptor(name, sentence)]
    knowledge = " ".join(_TOKEN.findall(f"{name} , {sentence}"))
    return [f"{fill(template, name)} ; {knowledge}" for template in templates]


def _with_descriptor(name: str, descriptor: str) -> str:
    first, *rest = descriptor.lower().split()
    verb = rest[0] if rest and first in _ADVERBS else first
    link = "which" if verb in _VERBS else "which is" if first in _TELLS_WHAT else "which has"
    return f"{name}, {link} {descriptor}"


def _weighed(texts: Sequence[PromptText], weight: float) -> tuple[PromptText, ...]:
    times = Counter(text.text for text in texts)
    first = {text.text: text for text in reversed(texts)}
    return tuple(
        PromptText(text, weight * count / len(texts), "context", first[text].source, first[text].evidence)
        for text, count in times.items()
    )
