"""The control of retrieval: the same number of captions per class, with the same weights, drawn at random.

What prompts gain over this control, they gain from which captions were retrieved, and not from mixing captions in.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from rag_clip.data import Hit, Prompts, PromptText


def random_prompts(like: Prompts, captions: Sequence[Hit], *, seed: int) -> Prompts:
    """Replace the captions of each class in `like` by as many of `captions`, without repeats within a class.

    The draw of a class depends on its name and the seed alone. Raises ValueError where a class needs more captions
    than there are.
    """
    captions = [hit for hit in captions if hit.text.strip()]
    needed = max(sum(text.role == "context" for text in group) for group in like.texts)
    if needed > len(captions):
        raise ValueError(f"a class needs {needed} random captions, found {len(captions)}; give more captions")
    texts = tuple(
        _replaced(group, captions, random.Random(f"{seed}:{name}"))
        for name, group in zip(like.labels.names, like.texts, strict=True)
    )
    settings = {**like.provenance.get("settings", {}), "seed": seed}
    return Prompts(like.labels, texts, {**like.provenance, "method": "random", "settings": settings})


def _replaced(group: Sequence[PromptText], captions: Sequence[Hit], draw: random.Random) -> tuple[PromptText, ...]:
    drawn = iter(draw.sample(captions, sum(text.role == "context" for text in group)))
    return tuple(text if text.role == "anchor" else _caption(text, next(drawn)) for text in group)


def _caption(text: PromptText, hit: Hit) -> PromptText:
    return replace(text, text=hit.text, source=hit.source, evidence=hit.id, score=None, rank=None)
