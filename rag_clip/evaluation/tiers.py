"""Tiers of information: what a run used besides class names, so that results show which runs are comparable."""

from __future__ import annotations

from collections.abc import Mapping

from rag_clip.data import Prompts
from rag_clip.evaluation.settings import HeadFacts

TIERS: Mapping[str, str] = {
    "T0": "class names, templates and written knowledge",
    "T1": "and a corpus of captions or images",
    "T2": "and the unlabelled images of the whole batch",
    "T3": "and a second image encoder",
    "FS": "and labelled support or validation images",
    "T?": "unknown: the prompts do not record how they were made",
}
WORDS: Mapping[str, str] = {
    "T0": "names",
    "T1": "corpus",
    "T2": "batch",
    "T3": "second encoder",
    "FS": "labels",
    "T?": "unknown",
}
_CORPUS_ORIGINS, _LABELLED_ORIGINS = {"retrieved"}, {"shot", "corrected"}


def tier_of(prompts: Prompts | None, head: HeadFacts | None = None) -> str:
    """Return the tier of a run as marks, such as "T0", "T1", or "T1+T3+FS"; only one of T0, T1 and T? occurs.

    `head` is the head's facts, if there is a head; `prompts` is None for text features of a file. A run used a corpus
    if the prompts record an index or quote captions, or if support images were retrieved. It used unlabelled images if
    these chose the texts, and labels if a support image is a shot or a correction, or if settings were chosen on
    validation images.
    """
    origins = set(head.origins or ()) if head else set()
    marks = [_text_tier(prompts)]
    if origins & _CORPUS_ORIGINS and marks[0] == "T0":
        marks = ["T1"]
    if prompts and prompts.recorded.chosen:
        marks.append("T2")
    if head and head.others:
        marks.append("T3")
    if origins & _LABELLED_ORIGINS or (head and head.validation):
        marks.append("FS")
    return "+".join(marks)


def with_batch(tier: str) -> str:
    """Return a tier with the mark of the unlabelled images of the whole batch."""
    first, *rest = tier.split("+")
    return "+".join([first, "T2", *(mark for mark in rest if mark != "T2")])


def with_second(tier: str) -> str:
    """Return a tier with the mark of a second image encoder."""
    marks = tier.split("+")
    before = [mark for mark in marks if mark not in ("T3", "FS")]
    return "+".join([*before, "T3", *(mark for mark in marks if mark == "FS")])


def with_corpus(tier: str) -> str:
    """Return a tier with the mark of a corpus in place of that of names alone."""
    first, *rest = tier.split("+")
    return "+".join(["T1" if first == "T0" else first, *rest])


def describe_tier(tier: str) -> str:
    """Return a tier in words."""
    marks = tier.split("+")
    return ", ".join(TIERS[mark] for mark in (["T0", *marks] if marks[0] == "T1" else marks))


def short_tier(tier: str) -> str:
    """Return a tier in a word for each mark, such as "corpus, labels" for "T1+FS"."""
    return ", ".join(WORDS[mark] for mark in tier.split("+"))


def _text_tier(prompts: Prompts | None) -> str:
    if prompts is None:
        return "T0"
    if prompts.recorded.index or any(text.evidence for group in prompts.texts for text in group):
        return "T1"
    return "T?" if prompts.recorded.method == "unknown" else "T0"
