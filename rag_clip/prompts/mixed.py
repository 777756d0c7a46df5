"""A set of prompts from several sources of text, mixed with the weights that a recipe states.

With anchors of weight a_cj that sum to one per class, and context texts of weight b_ck, B_c = sum_k b_ck <= 1,

    weights of class c:   (1 - B_c) * a_cj   and   b_ck

So each source has the weight that the recipe gives it; if a source has no texts for a class, its weight goes to the
anchors. classifiers.zero_shot turns the mixture into one vector per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rag_clip.data import Prompts, PromptText
from rag_clip.display import counted

Texts = tuple[tuple[PromptText, ...], ...]


def mix(anchors: Prompts, *contexts: Texts) -> Prompts:
    """Add the context texts of each class to its anchors, and scale the anchors to the remaining weight.

    Raises ValueError for contexts with another number of classes, and where those of a class weigh more than one.
    """
    for source in contexts:
        if len(source) != len(anchors.labels):
            raise ValueError(f"texts for {counted(len(source), 'class')} cannot be mixed into {len(anchors.labels)}")
    columns = zip(anchors.labels.names, anchors.texts, *contexts, strict=True)
    mixed = tuple(
        _mixed(name, group, [text for source in sources for text in source]) for name, group, *sources in columns
    )
    return Prompts(anchors.labels, mixed, anchors.provenance)


def _mixed(name: str, anchors: Sequence[PromptText], contexts: Sequence[PromptText]) -> tuple[PromptText, ...]:
    taken = sum(text.weight for text in contexts)
    if not -1e-6 <= taken <= 1 + 1e-6:
        raise ValueError(f"the texts mixed into class {name!r} weigh {taken:.4f} together; they may weigh at most 1")
    left = max(0.0, 1 - taken)
    return (*(replace(text, weight=left * text.weight) for text in anchors), *contexts)
